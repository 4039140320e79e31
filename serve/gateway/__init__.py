"""What a router replica does, without Ray."""
