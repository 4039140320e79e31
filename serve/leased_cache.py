"""Costly things, loaded once, used by many at a time, and released when others need the room.

The one mechanism behind adapters in an engine's slots and models in memory. Whoever uses a thing holds a
lease on it:

* a thing is loaded once, however many ask for it meanwhile;
* what is leased or loading is never released; of the rest the least recently leased goes first, and
  is released before the thing that takes its room begins to load, so that the capacity holds at every moment;
* who needs room that is not there waits in line. While they do, the things that must go for the first in the
  line take no new leases: otherwise ever-overlapping leases of the others could keep it waiting forever;
* who gives up waiting changes nothing for others: a load, once begun, is the cache's own and runs to its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar, cast

from serve.errors import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Ticket(Generic[T]):
    """One caller who waits: in the line for room, or for a load under way."""

    key: str
    size: int
    load: Callable[[], Awaitable[T]]
    granted: asyncio.Future[_Entry[T]]


@dataclass(eq=False, slots=True)
class _Entry(Generic[T]):
    """One thing; loading until `ready`. Its `room` is its size, but more while larger things still make way."""

    key: str
    room: int
    ready: bool = False
    value: T | None = None
    leases: int = 0
    waiters: list[_Ticket[T]] = field(default_factory=list)


class LeasedCache(Generic[T]):
    """For one event loop. `release` frees a thing: its room counts as free once that has returned.

    `capacity` and sizes are in any one unit. `wait_s` bounds the wait in the line, which has `max_waiting`
    places; beyond either, `Unavailable` with `retry_after_s`. A load may take as long as its loader lets it.
    """

    def __init__(
        self,
        capacity: int,
        release: Callable[[T], Awaitable[None]],
        *,
        max_parallel_loads: int,
        wait_s: float,
        max_waiting: int = 1024,
        retry_after_s: float = 1.0,
    ) -> None:
        if capacity < 1 or max_parallel_loads < 1:
            raise ValueError("capacity and max_parallel_loads must be at least 1")
        self.capacity = capacity
        self._release = release
        self._max_parallel_loads = max_parallel_loads
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._retry_after_s = retry_after_s
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()  # the least recently leased first
        self._queue: deque[_Ticket[T]] = deque()
        self._leaving: set[str] = set()  # being released: neither here nor ready to be loaded again
        self._closing: frozenset[str] = frozenset()  # take no new leases: must go for the first in the line
        self._tasks: set[asyncio.Task[T]] = set()
        self._closed = False

    @asynccontextmanager
    async def lease(
        self, key: str, load: Callable[[], Awaitable[T]], size: Callable[[], int] = lambda: 1
    ) -> AsyncIterator[T]:
        """The thing called `key`, made by `load` if it is not here, kept at least until the block ends.

        `size` is asked only where the thing is not here. Raises `Unavailable` when there is no room in time, and
        whatever `load` and `size` raise.
        """
        entry = await self._acquire(key, load, size)
        try:
            yield cast(T, entry.value)
        finally:
            self._give_back(entry)

    def update_bounds(self, *, max_parallel_loads: int, max_waiting: int) -> None:
        """For what comes from now on: who waits already keeps the place, what loads already ends."""
        self._max_parallel_loads = max_parallel_loads
        self._max_waiting = max_waiting
        self._advance()

    def resident(self) -> frozenset[str]:
        """What is here, loaded."""
        return frozenset(key for key, entry in self._entries.items() if entry.ready)

    def values(self) -> tuple[T, ...]:
        """The things that are here, loaded."""
        return tuple(cast(T, entry.value) for entry in self._entries.values() if entry.ready)

    def wanted(self) -> frozenset[str]:
        """What is here, or loading, or waited for."""
        return frozenset(self._entries) | {ticket.key for ticket in self._queue}

    def used(self) -> int:
        """The room taken, by what is here and by what is loading."""
        return sum(entry.room for entry in self._entries.values())

    async def close(self) -> None:
        """Turn away everyone who waits, let running loads end, then release everything, leased or not."""
        self._closed = True
        while self._queue:
            self._queue.popleft().granted.set_exception(Unavailable("The server is shutting down."))
        if self._tasks:
            await asyncio.wait(self._tasks)
        values = self.values()
        self._entries.clear()
        results = await asyncio.gather(*map(self._release, values), return_exceptions=True)
        if errors := [result for result in results if isinstance(result, BaseException)]:
            raise BaseExceptionGroup("not everything could be released", errors)

    async def _acquire(self, key: str, load: Callable[[], Awaitable[T]], size: Callable[[], int]) -> _Entry[T]:
        entry = self._entries.get(key)
        if entry is not None and entry.ready and key not in self._closing:
            return self._grant(entry)
        if self._closed or len(self._queue) >= self._max_waiting:
            raise self._no_room()
        ticket = _Ticket(key, size(), load, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._advance()
        try:
            return await self._outcome(ticket)
        except BaseException:  # cancelled, out of time, or the load failed: leave no trace
            self._abandon(ticket)
            raise

    async def _outcome(self, ticket: _Ticket[T]) -> _Entry[T]:
        # `asyncio.wait` neither cancels the future nor loses a grant that comes together with a cancellation.
        await asyncio.wait({ticket.granted}, timeout=self._wait_s)
        if ticket in self._queue:
            raise self._no_room()
        await asyncio.wait({ticket.granted})
        return ticket.granted.result()

    def _no_room(self) -> Unavailable:
        return Unavailable(
            "Everything that could make room is in use; try again shortly.", retry_after_s=self._retry_after_s
        )

    def _abandon(self, ticket: _Ticket[T]) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._advance()
        elif not ticket.granted.done():
            ticket.granted.cancel()
        elif ticket.granted.exception() is None:
            self._give_back(ticket.granted.result())

    def _grant(self, entry: _Entry[T]) -> _Entry[T]:
        entry.leases += 1
        # The order changes here and not when a lease ends, so that what is closing keeps its place.
        self._entries.move_to_end(entry.key)
        return entry

    def _give_back(self, entry: _Entry[T]) -> None:
        entry.leases -= 1
        self._advance()

    def _advance(self) -> None:
        """Serve the line as far as possible. Called whenever anything has changed."""
        self._closing = frozenset()
        blocked = False
        for ticket in tuple(self._queue):
            # Tickets that need no room may pass one that does; those that do keep their order.
            if self._joins(ticket) or (not blocked and self._begins(ticket)):
                self._queue.remove(ticket)
            else:
                blocked = True

    def _joins(self, ticket: _Ticket[T]) -> bool:
        entry = self._entries.get(ticket.key)
        if entry is None or ticket.key in self._closing:
            return False
        if entry.ready:
            ticket.granted.set_result(self._grant(entry))
        else:
            entry.waiters.append(ticket)
        return True

    def _begins(self, ticket: _Ticket[T]) -> bool:
        """Start the load for `ticket` if it may start now; else note what must be free of leases first."""
        if ticket.key in self._leaving or len(self._tasks) >= self._max_parallel_loads:
            return False
        victims = self._victims(ticket.size)
        if victims is None:
            return False
        if any(victim.leases for victim in victims):
            self._closing = frozenset(victim.key for victim in victims)
            return False
        for victim in victims:
            del self._entries[victim.key]
            self._leaving.add(victim.key)
        room = max(ticket.size, sum(victim.room for victim in victims))
        entry = _Entry(ticket.key, room, waiters=[ticket])
        self._entries[ticket.key] = entry  # has the victims' room from now on, although they are still there
        task = asyncio.create_task(self._fill(entry, victims, ticket))
        self._tasks.add(task)
        task.add_done_callback(partial(self._filled, entry))
        return True

    def _victims(self, size: int) -> list[_Entry[T]] | None:
        """What has to go for `size` more, idle things first; None if even all that can go is not enough."""
        free = self.capacity - self.used()
        movable = [entry for entry in self._entries.values() if entry.ready]
        victims: list[_Entry[T]] = []
        # The sort is stable: within each half the least recently leased comes first.
        for entry in sorted(movable, key=lambda entry: entry.leases > 0):
            if free >= size:
                break
            victims.append(entry)
            free += entry.room
        return victims if free >= size else None

    async def _fill(self, entry: _Entry[T], victims: Iterable[_Entry[T]], ticket: _Ticket[T]) -> T:
        await self._evict(deque(victims))
        entry.room = ticket.size
        self._advance()
        return await ticket.load()

    async def _evict(self, victims: deque[_Entry[T]]) -> None:
        try:
            while victims:
                await self._release(cast(T, victims[0].value))
                self._leaving.discard(victims.popleft().key)
        finally:
            # A release that failed may have freed nothing: what it was for still counts, and is next to go.
            for victim in reversed(victims):
                self._leaving.discard(victim.key)
                self._entries[victim.key] = victim
                self._entries.move_to_end(victim.key, last=False)

    def _filled(self, entry: _Entry[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        waiters = [ticket for ticket in entry.waiters if not ticket.granted.done()]
        entry.waiters.clear()
        if error is None:
            entry.value = task.result()
            entry.ready = True
            for ticket in waiters:
                ticket.granted.set_result(self._grant(entry))
        else:
            del self._entries[entry.key]
            if not waiters:
                logger.warning("A load failed that nobody waits for any more.", exc_info=error)
            for ticket in waiters:
                ticket.granted.set_exception(error)
        self._advance()
