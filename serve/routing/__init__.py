"""Where a request goes: what its `model` means, and which replica answers it."""
