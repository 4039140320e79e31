"""Waiting for what other processes bring about: bounded, and the only place in these tests that sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1


async def eventually(probe: Callable[[], Awaitable[T | None]], within_s: float, what: str) -> T:
    """The first truthy value of `probe`. Fails, saying `what` did not come and the last value, after `within_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        value = await probe()
        if value:
            return value
        if loop.time() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {what} (last seen: {value!r})")
        await asyncio.sleep(POLL_S)
