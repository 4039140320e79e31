"""Bounds in time for what a request waits for."""

from __future__ import annotations

import asyncio
from typing import Self


class Clock:
    """Bounds how long a block runs, in seconds: `TimeoutError` at its end, if not more was allowed meanwhile.

        with Clock(first_byte_s) as clock:
            ...
            clock.allow(idle_s)

    A stream allows itself more time with each piece, so that must cost next to nothing: the one timer looks, when it
    rings, whether more time was allowed meanwhile.
    """

    _task: asyncio.Task[object]
    _timer: asyncio.TimerHandle

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self.expired = False
        """Whether it has ended its block."""

    def allow(self, seconds: float) -> None:
        """From now, wait `seconds` at most."""
        self._until = self._loop.time() + seconds
        if self._until < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(self._until, self._ring)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # only tasks answer requests
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._loop.call_at(self._until, self._ring)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        # As `asyncio.Timeout` has it: a cancellation from outside goes on outwards.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _ring(self) -> None:
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._ring)
        else:
            self.expired = True
            self._task.cancel()
