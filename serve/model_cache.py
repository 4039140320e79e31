"""Models in memory, bounded by bytes: each is loaded once, shared, and really released to make room for
another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from serve.config import GIB
from serve.errors import ConfigError
from serve.leased_cache import LeasedCache

T = TypeVar("T")


class ModelCache(Generic[T]):
    """`release` frees a model's memory; it has returned before the model that needs the room begins to load.

    A model that is leased is never released. When all that could make room are, callers wait up to `wait_s`
    seconds in the order in which they came.
    """

    def __init__(
        self,
        max_bytes: int,
        release: Callable[[T], Awaitable[None]],
        *,
        wait_s: float = 30.0,
        max_parallel_loads: int = 1,
    ) -> None:
        self._cache = LeasedCache(max_bytes, release, max_parallel_loads=max_parallel_loads, wait_s=wait_s)

    def lease(
        self, name: str, size_bytes: Callable[[], int], loader: Callable[[], Awaitable[T]]
    ) -> AbstractAsyncContextManager[T]:
        """`async with cache.lease(…) as model`: in memory at least until the block ends.

        `size_bytes` is asked only where the model is not in memory: it may look at many files.

        Raises `ConfigError` for a model that can never fit, `Unavailable` when there is no room in time, and
        what `loader` raises: the cache is then as if it had not been asked, less what had to go for it.
        """
        return self._cache.lease(name, loader, lambda: self._fitting(name, size_bytes()))

    async def get(self, name: str, size_bytes: Callable[[], int], loader: Callable[[], Awaitable[T]]) -> T:
        """The same without a lease: the model may be released as soon as another one needs the room."""
        async with self.lease(name, size_bytes, loader) as model:
            return model

    def resident(self) -> frozenset[str]:
        return self._cache.resident()

    def loaded(self) -> tuple[T, ...]:
        """The models in memory."""
        return self._cache.values()

    async def close(self) -> None:
        """Release every model, leased or not, after running loads have ended."""
        await self._cache.close()

    def _fitting(self, name: str, size_bytes: int) -> int:
        if size_bytes > self._cache.capacity:
            fault = f"model_cache_gib: {name} needs {size_bytes / GIB:.2f} GiB, above {self._cache.capacity / GIB:.2f}"
            raise ConfigError("the model cache", (fault,))
        return size_bytes
