"""Keeps a stream's connection in use while its model is silent: who sees no byte for long may hang up."""

from __future__ import annotations

import asyncio
import math
from typing import Self

from serve.gateway.events import ENDS
from serve.gateway.exchange import Exchange


class KeepAlive:
    """Sends a comment whenever the client has been sent nothing for so many seconds; None: never.

        async with KeepAlive(exchange, seconds) as stream:
            await stream.send(events)

    There is none before the first piece, none inside an event, none while a piece waits for a slow reader, and none
    once the block is left. How long the model may be silent is not its business: `Clock` bounds that.

    A stream sends many pieces and is seldom silent, so a piece must cost next to nothing: the one timer looks, when it
    rings, when the last of them was sent.
    """

    def __init__(self, exchange: Exchange, seconds: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._seconds = math.inf if seconds is None else seconds
        self._silent_since = math.inf
        """Infinite before the first piece and while one is being sent."""
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._seconds < math.inf:
            self._timer = self._loop.call_later(self._seconds, self._ring)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            # One that waits for a slow reader would go out behind the stream's last word.
            self._comment.cancel()
            await asyncio.wait([self._comment])

    async def send(self, events: bytes) -> None:
        """Send a piece of the answer, behind a comment that is on its way."""
        self._silent_since = math.inf
        if self._comment is not None:
            await self._comment
            self._comment = None
        await self._exchange.body(events)
        self._silent_since = self._loop.time()

    def _ring(self) -> None:
        now = self._loop.time()
        due = self._silent_since + self._seconds
        if due <= now and self._may_comment():
            self._comment = self._loop.create_task(self._exchange.comment())
        again = due if now < due < math.inf else now + self._seconds
        self._timer = self._loop.call_at(again, self._ring)

    def _may_comment(self) -> bool:
        """A comment inside an event (a very long one is passed on in pieces) would be its end."""
        on_its_way = self._comment is not None and not self._comment.done()
        return not on_its_way and self._exchange.sent_last.endswith(ENDS)
