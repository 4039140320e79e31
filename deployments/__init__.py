"""The Ray shell: what runs in Serve's replicas."""
