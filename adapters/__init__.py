"""Adapters of self-hosted models: where they come from, which versions there are, what is in which engine."""
