from __future__ import annotations

import asyncio
from functools import partial

import pytest

from serve.config import GIB
from serve.errors import ConfigError, Unavailable
from serve.model_cache import ModelCache


class Model:
    """Tens of bytes of memory, as far as the cache knows."""

    def __init__(self, machine: Machine, size: int) -> None:
        self.machine = machine
        self.size = size
        machine.take(size)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.machine.take(-self.size)


class Machine:
    """Refuses to be overfilled. Loading a model takes a few steps, and so does closing it."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.used = 0
        self.loads: list[int] = []

    def take(self, size: int) -> None:
        self.used += size
        assert 0 <= self.used <= self.memory

    async def load(self, size: int) -> Model:
        self.loads.append(size)
        await asyncio.sleep(0)
        return Model(self, size)


@pytest.fixture
def machine() -> Machine:
    return Machine(100)


@pytest.fixture
def cache() -> ModelCache[Model]:
    return ModelCache(100, release=Model.close, wait_s=0)


async def test_a_model_is_loaded_once_and_shared(machine: Machine, cache: ModelCache[Model]) -> None:
    async def use() -> Model:
        async with cache.lease("a", lambda: 60, lambda: machine.load(60)) as model:
            return model

    first, second = await asyncio.gather(use(), use())
    assert first is second
    assert await cache.get("a", lambda: 60, lambda: machine.load(60)) is first
    assert machine.loads == [60]
    assert cache.resident() == {"a"}
    assert cache.loaded() == (first,)


async def test_a_size_is_asked_for_once_and_not_of_what_is_in_memory(
    machine: Machine, cache: ModelCache[Model]
) -> None:
    asked: list[str] = []

    def size_of(name: str) -> int:
        asked.append(name)
        return 60

    for name in ("a", "a", "b", "b", "a"):
        async with cache.lease(name, partial(size_of, name), lambda: machine.load(60)):
            pass
    assert asked == ["a", "b", "a"]


async def test_the_one_used_longest_ago_makes_room_before_the_next_is_loaded(
    machine: Machine, cache: ModelCache[Model]
) -> None:
    for name in ("a", "b", "a"):
        await cache.get(name, lambda: 40, lambda: machine.load(40))
    await cache.get("c", lambda: 50, lambda: machine.load(50))
    assert cache.resident() == {"a", "c"}
    assert machine.used == 90


async def test_a_model_in_use_is_never_released(machine: Machine, cache: ModelCache[Model]) -> None:
    async with cache.lease("a", lambda: 60, lambda: machine.load(60)):
        with pytest.raises(Unavailable) as caught:
            await cache.get("b", lambda: 60, lambda: machine.load(60))
        assert caught.value.retry_after_s is not None
        assert machine.loads == [60]
    await cache.get("b", lambda: 60, lambda: machine.load(60))
    assert cache.resident() == {"b"}


async def test_a_model_that_can_never_fit_is_refused_in_words(machine: Machine, cache: ModelCache[Model]) -> None:
    await cache.get("a", lambda: 60, lambda: machine.load(60))
    with pytest.raises(ConfigError, match=r"model_cache_gib: big needs 2\.50 GiB, above 0\.00"):
        await cache.get("big", lambda: 5 * GIB // 2, lambda: machine.load(101))
    assert cache.resident() == {"a"}


async def test_a_model_that_takes_no_memory_here(machine: Machine, cache: ModelCache[Model]) -> None:
    async with cache.lease("a", lambda: 100, lambda: machine.load(100)):
        await cache.get("elsewhere", lambda: 0, lambda: machine.load(0))
    assert cache.resident() == {"a", "elsewhere"}


async def test_a_load_that_fails_changes_nothing(machine: Machine, cache: ModelCache[Model]) -> None:
    async def fail() -> Model:
        raise Unavailable("no such luck")

    kept = await cache.get("a", lambda: 60, lambda: machine.load(60))
    with pytest.raises(Unavailable, match="no such luck"):
        await cache.get("b", lambda: 40, fail)
    assert cache.loaded() == (kept,)
    await cache.get("b", lambda: 40, lambda: machine.load(40))


async def test_closing_releases_all(machine: Machine, cache: ModelCache[Model]) -> None:
    async with cache.lease("a", lambda: 60, lambda: machine.load(60)):
        await cache.get("b", lambda: 40, lambda: machine.load(40))
        await cache.close()
        assert machine.used == 0
        assert cache.loaded() == ()
