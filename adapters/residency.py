"""Which adapter versions are in one engine now, and which may stay.

The engine's capacity is hard (vLLM's `max_cpu_loras`), and going over it makes the engine drop an adapter by
its own rule, in use or not. So when it is full, one goes before the next comes; a load that then fails has
cost one that nobody was using. Loads of different adapters run side by side, which is what keeps warm ones
unaffected by a slow one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from serve.errors import SwitchboardError
from serve.leased_cache import LeasedCache
from serve.schemas import AdapterRef

_MAX_FAILURES = 1024


@dataclass(frozen=True, slots=True)
class ResidencyLimits:
    """Times in seconds."""

    max_parallel_loads: int = 2
    wait_s: float = 10.0
    """How long a request waits for a slot, when every slot is in use."""
    max_waiting: int = 1024
    retry_after_s: float = 1.0
    negative_cache_s: float = 30.0
    """How long a failed load is answered from memory."""


class ResidencyObserver(Protocol):
    """What happened to an adapter, for metrics."""

    def loaded(self, ref: AdapterRef, seconds: float) -> None: ...

    def failed(self, ref: AdapterRef) -> None: ...

    def evicted(self, ref: AdapterRef) -> None: ...


class _Unobserved:
    def loaded(self, ref: AdapterRef, seconds: float) -> None: ...

    def failed(self, ref: AdapterRef) -> None: ...

    def evicted(self, ref: AdapterRef) -> None: ...


@dataclass(frozen=True, slots=True)
class _Failure:
    error: SwitchboardError
    until: float


class Residency:
    """The adapters in one engine, which holds `slots`. `load` and `unload` raise `SwitchboardError`s."""

    def __init__(
        self,
        slots: int,
        load: Callable[[AdapterRef, Path], Awaitable[None]],
        unload: Callable[[AdapterRef], Awaitable[None]],
        limits: ResidencyLimits | None = None,
        observer: ResidencyObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or ResidencyLimits()
        self._load_into_engine = load
        self._unload_from_engine = unload
        self._observer = observer or _Unobserved()
        self._limits = limits
        self._clock = clock
        self._failures: OrderedDict[str, _Failure] = OrderedDict()  # by address, the oldest first
        self._cache = LeasedCache(
            slots,
            self._unload,
            max_parallel_loads=limits.max_parallel_loads,
            wait_s=limits.wait_s,
            max_waiting=limits.max_waiting,
            retry_after_s=limits.retry_after_s,
        )

    @asynccontextmanager
    async def lease(self, ref: AdapterRef, path: Path) -> AsyncIterator[None]:
        """Hold `ref` in the engine, loaded from `path` if need be, for as long as the block runs.

        Raises `Unavailable` when every slot stays in use, and what `load` raises; for `negative_cache_s`
        after such a failure, the same again without troubling the engine.
        """
        self._raise_remembered(ref)
        async with self._cache.lease(ref.address, partial(self._load, ref, path)):
            yield

    def update_limits(self, limits: ResidencyLimits) -> None:
        """Take the bounds that may change, on loads and on waiting requests; times stay as they are."""
        self._cache.update_bounds(max_parallel_loads=limits.max_parallel_loads, max_waiting=limits.max_waiting)

    def resident(self) -> frozenset[str]:
        """The addresses of the adapters in the engine."""
        return self._cache.resident()

    def wanted(self) -> frozenset[str]:
        """Those, and the ones that are being loaded or waited for."""
        return self._cache.wanted()

    async def _load(self, ref: AdapterRef, path: Path) -> AdapterRef:
        started = self._clock()
        try:
            await self._load_into_engine(ref, path)
        except SwitchboardError as error:
            self._remember(ref, error)
            self._observer.failed(ref)
            raise
        self._observer.loaded(ref, self._clock() - started)
        return ref

    async def _unload(self, ref: AdapterRef) -> None:
        await self._unload_from_engine(ref)
        self._observer.evicted(ref)

    def _remember(self, ref: AdapterRef, error: SwitchboardError) -> None:
        self._failures[ref.address] = _Failure(error, self._clock() + self._limits.negative_cache_s)
        self._failures.move_to_end(ref.address)
        if len(self._failures) > _MAX_FAILURES:
            self._failures.popitem(last=False)

    def _raise_remembered(self, ref: AdapterRef) -> None:
        failure = self._failures.get(ref.address)
        if failure is None:
            return
        if self._clock() < failure.until:
            raise type(failure.error)(*failure.error.args)
        del self._failures[ref.address]
