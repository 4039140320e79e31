from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from serve.errors import Unavailable
from serve.leased_cache import LeasedCache

V = TypeVar("V")

HOURS_S = 10_000.0  # a wait that no test sees the end of


class Broken(Exception):
    """What a load or a release raises here."""


async def settle() -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(30):
        await asyncio.sleep(0)


class Memory:
    """A resource with hard bounds, whose loads and releases end when the test says so."""

    def __init__(self, capacity: int, max_parallel_loads: int, **cache: Any) -> None:
        self.capacity = capacity
        self.max_parallel_loads = max_parallel_loads
        self.loading: dict[str, asyncio.Future[None]] = {}
        self.releasing: dict[str, asyncio.Future[None]] = {}
        self.loaded: set[str] = set()
        self.loads: list[str] = []
        self.released: list[str] = []
        options = {"wait_s": HOURS_S, "max_parallel_loads": max_parallel_loads} | cache
        self.cache: LeasedCache[str] = LeasedCache(capacity, self.release, **options)

    @staticmethod
    def size(key: str) -> int:
        return int(key[-1]) if key[-1].isdigit() else 1

    async def load(self, key: str) -> str:
        assert key not in self.loaded | self.loading.keys() | self.releasing.keys()
        self.loads.append(key)
        self.loading[key] = asyncio.get_running_loop().create_future()
        self.check()
        try:
            await self.loading[key]
        finally:
            del self.loading[key]
        self.loaded.add(key)
        return key

    async def release(self, key: str) -> None:
        assert key in self.loaded
        assert key not in self.releasing
        self.releasing[key] = asyncio.get_running_loop().create_future()
        try:
            await self.releasing[key]
        finally:
            del self.releasing[key]
        self.loaded.remove(key)
        self.released.append(key)

    def check(self) -> None:
        assert sum(map(self.size, self.loaded | self.loading.keys())) <= self.capacity
        assert len(self.loading) <= self.max_parallel_loads

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[str]:
        async with self.cache.lease(key, lambda: self.load(key), lambda: self.size(key)) as value:
            yield value

    async def finish(self, error: BaseException | None = None) -> None:
        """End every load and release under way."""
        for future in (*self.loading.values(), *self.releasing.values()):
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        await settle()


class Caller:
    """One who wants `key`, and holds it until told otherwise."""

    def __init__(self, memory: Memory, key: str) -> None:
        self.key = key
        self._holding = False
        self._enough = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(memory))

    async def _run(self, memory: Memory) -> None:
        async with memory.lease(self.key) as value:
            assert value == self.key
            self._holding = True
            try:
                await self._enough.wait()
            finally:
                self._holding = False

    def holds(self) -> bool:
        return self._holding

    async def give_back(self) -> None:
        self._enough.set()
        await settle()


async def call(memory: Memory, *keys: str) -> list[Caller]:
    callers = [Caller(memory, key) for key in keys]
    await settle()
    return callers


async def holding(memory: Memory, *keys: str) -> list[Caller]:
    callers = await call(memory, *keys)
    while memory.loading or memory.releasing:
        await memory.finish()
    assert all(caller.holds() for caller in callers)
    return callers


async def test_one_load_serves_all_who_ask_meanwhile() -> None:
    memory = Memory(2, 2)
    callers = await call(memory, "a", "a", "a")
    assert memory.loads == ["a"]
    await memory.finish()
    assert [caller.holds() for caller in callers] == [True, True, True]
    await holding(memory, "a")
    assert memory.loads == ["a"]


async def test_a_slow_load_delays_no_other_key() -> None:
    memory = Memory(3, 2)
    (warm,) = await holding(memory, "warm")
    slow, fast = await call(memory, "slow", "fast")
    memory.loading["fast"].set_result(None)
    await settle()
    assert (slow.holds(), fast.holds()) == (False, True)
    await warm.give_back()
    await holding(memory)
    assert slow.holds()


async def test_loads_side_by_side_are_bounded() -> None:
    memory = Memory(3, 2)
    await call(memory, "a", "b", "c")
    assert memory.loads == ["a", "b"]
    memory.loading["a"].set_result(None)
    await settle()
    assert memory.loads == ["a", "b", "c"]


async def test_the_least_recently_leased_goes_before_the_next_one_loads() -> None:
    memory = Memory(2, 2)
    for caller in await holding(memory, "a", "b"):
        await caller.give_back()
    for caller in await holding(memory, "a"):
        await caller.give_back()
    await call(memory, "c")
    assert (list(memory.releasing), memory.loads) == (["b"], ["a", "b"])
    await memory.finish()
    assert memory.loads == ["a", "b", "c"]
    await memory.finish()
    assert memory.cache.resident() == {"a", "c"}


async def test_there_is_room_for_large_things_when_enough_small_ones_go() -> None:
    memory = Memory(4, 2)
    for caller in await holding(memory, "a1", "b1", "c2"):
        await caller.give_back()
    await holding(memory, "d3")
    assert memory.released == ["a1", "b1", "c2"]  # by recency, not by fit


async def test_what_is_leased_stays_and_the_next_one_waits() -> None:
    memory = Memory(1, 1)
    (first,) = await holding(memory, "a")
    (second,) = await call(memory, "b")
    assert memory.loads == ["a"]
    assert memory.cache.wanted() == {"a", "b"}
    await first.give_back()
    await holding(memory)
    assert second.holds()


async def test_who_waits_longest_is_served_first() -> None:
    memory = Memory(1, 1)
    callers = await holding(memory, "a")
    callers += await call(memory, "b", "c", "b", "d")
    while not all(caller.task.done() for caller in callers):
        for caller in callers:
            if caller.holds():
                await caller.give_back()
        await memory.finish()
    assert memory.loads == ["a", "b", "c", "d"]  # the second who wants b joins the first: that takes no room


async def test_overlapping_leases_of_others_starve_nobody() -> None:
    memory = Memory(2, 2)
    hot, other = await holding(memory, "hot", "other")
    (cold,) = await call(memory, "cold")
    (late,) = await call(memory, "hot")
    assert not late.holds()  # although "hot" is there: it is next to go
    (beside,) = await call(memory, "other")
    assert beside.holds()  # not next to go, so it is leased as ever
    await hot.give_back()
    await holding(memory)
    assert cold.holds()
    await cold.give_back()
    await holding(memory)
    assert late.holds()
    assert other.holds()


async def test_leases_are_free_again_when_the_one_who_waited_gives_up() -> None:
    memory = Memory(1, 1)
    await holding(memory, "hot")
    cold, late = await call(memory, "cold", "hot")
    cold.task.cancel()
    await settle()
    assert late.holds()
    assert memory.cache.wanted() == {"hot"}


async def test_no_room_in_time() -> None:
    memory = Memory(1, 1, wait_s=0, retry_after_s=7)
    await holding(memory, "a")
    with pytest.raises(Unavailable) as caught:
        async with memory.lease("b"):
            pass
    assert caught.value.retry_after_s == 7
    assert memory.cache.wanted() == {"a"}
    async with memory.lease("a"):
        pass


async def test_the_time_bounds_the_wait_for_room_and_not_the_load() -> None:
    memory = Memory(1, 1, wait_s=0)
    (caller,) = await call(memory, "a")
    assert not caller.task.done()
    await memory.finish()
    assert caller.holds()


async def test_the_line_is_bounded() -> None:
    memory = Memory(1, 1, max_waiting=1)
    await holding(memory, "a")
    await call(memory, "b")
    with pytest.raises(Unavailable):
        async with memory.lease("c"):
            pass


async def test_the_bounds_on_loads_and_on_the_line_change_while_it_runs() -> None:
    memory = Memory(3, 1, max_waiting=1)
    await call(memory, "a", "b")
    assert memory.loads == ["a"]
    memory.max_parallel_loads = 3
    memory.cache.update_bounds(max_parallel_loads=3, max_waiting=2)
    await settle()
    assert memory.loads == ["a", "b"]
    await call(memory, "c", "d", "e")
    assert memory.loads == ["a", "b", "c"]
    with pytest.raises(Unavailable):
        async with memory.lease("f"):
            pass


async def test_a_failed_load_reaches_all_who_wait_and_harms_nobody_else() -> None:
    memory = Memory(2, 2)
    (kept,) = await holding(memory, "a")
    callers = await call(memory, "b", "b")
    await memory.finish(Broken("b"))
    assert [type(caller.task.exception()) for caller in callers] == [Broken, Broken]
    assert kept.holds()
    assert memory.cache.used() == 1
    await holding(memory, "b")


async def test_a_failed_release_keeps_what_it_was_for() -> None:
    memory = Memory(1, 1)
    for caller in await holding(memory, "a"):
        await caller.give_back()
    (unlucky,) = await call(memory, "b")
    await memory.finish(Broken("a"))
    assert isinstance(unlucky.task.exception(), Broken)
    assert memory.cache.resident() == {"a"}
    await holding(memory, "b")
    assert memory.released == ["a"]


async def test_who_gives_up_takes_no_load_from_others() -> None:
    memory = Memory(1, 1)
    first, second = await call(memory, "a", "a")
    first.task.cancel()
    await settle()
    await memory.finish()
    assert second.holds()


async def test_a_load_that_nobody_waits_for_ends_and_its_fruit_may_go() -> None:
    memory = Memory(1, 1)
    (gone,) = await call(memory, "a")
    gone.task.cancel()
    await settle()
    (waiting,) = await call(memory, "b")
    await memory.finish()
    await holding(memory)
    assert waiting.holds()
    assert memory.released == ["a"]


async def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(1, 1)
    (gone,) = await call(memory, "a")
    gone.task.cancel()
    await settle()
    await memory.finish(Broken("a"))
    assert "nobody waits" in caplog.text
    assert memory.cache.used() == 0


async def test_a_grant_that_meets_a_cancellation_is_given_back() -> None:
    memory = Memory(1, 1)
    (caller,) = await call(memory, "a")
    memory.loading["a"].set_result(None)
    await asyncio.sleep(0)  # the load has ended
    await asyncio.sleep(0)  # the lease is granted, and its caller not yet told
    assert memory.cache.resident() == {"a"}
    caller.task.cancel()
    await settle()
    assert caller.task.cancelled()
    await holding(memory, "b")  # so "a" was not leased any more


async def test_what_is_being_released_is_loaded_anew_afterwards() -> None:
    memory = Memory(1, 1)
    for caller in await holding(memory, "a"):
        await caller.give_back()
    b, a = await call(memory, "b", "a")
    await holding_all(memory, b)
    await b.give_back()
    await holding_all(memory, a)
    assert memory.loads == ["a", "b", "a"]


async def holding_all(memory: Memory, *callers: Caller) -> None:
    await holding(memory)
    assert all(caller.holds() for caller in callers)


async def test_closing_releases_everything() -> None:
    memory = Memory(2, 1)
    await holding(memory, "a")
    loading, waiting = await call(memory, "b", "c")
    closing = asyncio.create_task(memory.cache.close())
    await settle()
    assert isinstance(waiting.task.exception(), Unavailable)
    while not closing.done():
        await memory.finish()
    assert loading.holds()
    assert memory.loaded == set()
    with pytest.raises(Unavailable):
        async with memory.lease("d"):
            pass


async def test_closing_goes_on_after_a_failure_and_reports_it() -> None:
    memory = Memory(2, 2)
    await holding(memory, "a", "b")
    closing = asyncio.create_task(memory.cache.close())
    await settle()
    memory.releasing["a"].set_exception(Broken("a"))
    memory.releasing["b"].set_result(None)
    with pytest.raises(BaseExceptionGroup):
        await closing
    assert memory.released == ["b"]


@pytest.mark.parametrize(("capacity", "loads"), [(0, 1), (1, 0)])
def test_senseless_bounds(capacity: int, loads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Memory(capacity, loads)


class Interleavings(RuleBasedStateMachine):
    """Any order of asking, giving back, giving up, and loads and releases that end well or not.

    `Memory` itself checks capacity, single flight and the bound on loads, at each step.
    """

    KEYS = ("a1", "b1", "c1", "d2", "e2", "f3")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.callers: list[Caller] = []
        self.memory = Memory(4, 2)

    def run(self, step: Coroutine[Any, Any, V]) -> V:
        return self.loop.run_until_complete(step)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
    def ask(self, keys: list[str]) -> None:
        self.callers += self.run(call(self.memory, *keys))

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.run(data.draw(st.sampled_from(self.callers)).give_back())

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), steps=st.integers(0, 4))
    def give_up(self, data: st.DataObject, steps: int) -> None:
        """Some steps into whatever else is going on."""
        self.end_one(data, None)
        for _ in range(steps):
            self.run(asyncio.sleep(0))
        data.draw(st.sampled_from(self.callers)).task.cancel()
        self.run(settle())

    @rule(data=st.data(), error=st.sampled_from([None, None, Broken("so it happens")]))
    def end(self, data: st.DataObject, error: Broken | None) -> None:
        self.end_one(data, error)
        self.run(settle())

    def end_one(self, data: st.DataObject, error: Broken | None) -> None:
        under_way = [*self.memory.loading.values(), *self.memory.releasing.values()]
        if under_way:
            future = data.draw(st.sampled_from(under_way))
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    @invariant()
    def bounds_hold(self) -> None:
        self.memory.check()

    @invariant()
    def what_is_leased_is_there(self) -> None:
        held = {caller.key for caller in self.callers if caller.holds()}
        assert held <= self.memory.loaded - self.memory.releasing.keys()
        assert held <= self.memory.cache.resident()

    @invariant()
    def nobody_fails_without_a_cause(self) -> None:
        for caller in self.callers:
            if caller.task.done() and not caller.task.cancelled():
                assert isinstance(caller.task.exception(), Broken | None)

    @override
    def teardown(self) -> None:
        """From any state everyone is served in the end, and nothing is left over."""
        try:
            self.all_are_served()
        finally:
            for caller in self.callers:
                caller.task.cancel()
            self.run(settle())
            self.loop.close()

    def all_are_served(self) -> None:
        for _ in range(20 * len(self.callers) + 20):
            self.run(self.memory.finish())
            for caller in self.callers:
                if caller.holds():
                    self.run(caller.give_back())
        assert all(caller.task.done() for caller in self.callers)
        assert self.memory.cache.wanted() == self.memory.cache.resident() == self.memory.loaded


Interleavings.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestInterleavings = Interleavings.TestCase
