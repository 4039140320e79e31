"""The product without Ray, and the one place that binds it to Ray."""
