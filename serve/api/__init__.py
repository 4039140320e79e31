"""The wire: which endpoints there are, what they take, and how they say no."""
