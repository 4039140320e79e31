"""Python's garbage collector in a process that serves."""

from __future__ import annotations

import gc


def keep_out_of_collections() -> None:
    """What is in memory now stays for the life of the process: leave it out of every collection from here on.

    A full collection walks all that torch, vLLM and Ray have imported while every request waits. vLLM's own API server
    does the same (`vllm/utils/gc_utils.py`).
    """
    gc.collect()
    gc.freeze()
