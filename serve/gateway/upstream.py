"""The client side of the byte path: one HTTP request to one manager replica.

Bytes go through as they come. Nothing here knows what a chunk holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from serve.config import Timeouts

FORWARDED = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry", "allow"})
"""Response headers that pass from a replica to the client; all others belong to the hop."""


class AttemptFailed(Exception):
    """One attempt at one replica came to nothing.

    `outcome` is the metric's label: `connect` (the request never left), `reset` (the replica broke off),
    `malformed` (it did not speak HTTP), `empty` (a stream without one event), `too_large`. `sent` tells
    whether the replica may have begun to work.
    """

    def __init__(self, outcome: str, *, sent: bool) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.sent = sent


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
        self._expired = False

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
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _ring(self) -> None:
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._ring)
        else:
            self._expired = True
            self._task.cancel()


@dataclass(frozen=True, slots=True)
class Answer:
    """A replica's answer, its body not yet read."""

    status: int
    headers: list[tuple[bytes, bytes]]
    streams: bool
    is_json: bool
    code: str | None
    """Of an error, as the manager names it."""
    retry_after_s: float | None
    _response: aiohttp.ClientResponse
    _clock: Clock
    _idle_s: float

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `AttemptFailed` when it breaks off."""
        content = self._response.content
        try:
            while chunk := await content.readany():
                self._clock.allow(self._idle_s)
                yield chunk
        except (aiohttp.ClientError, ConnectionError) as error:
            raise AttemptFailed("reset", sent=True) from error

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `AttemptFailed`, also when there is more of it than that."""
        chunks: list[bytes] = []
        room = limit_bytes
        async for chunk in self.chunks():
            room -= len(chunk)
            if room < 0:
                raise AttemptFailed("too_large", sent=True)
            chunks.append(chunk)
        return b"".join(chunks)


class Upstream:
    """A pool of connections to the manager replicas: as many as there are requests, which the gateway bounds."""

    def __init__(self, timeouts: Timeouts, secret: str) -> None:
        self._timeouts = timeouts
        self._secret = secret
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            raise_for_status=False,
        )

    @asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], clock: Clock, idle_s: float
    ) -> AsyncIterator[Answer]:
        """Send one request and give its answer's head. Each piece of its body gives the next one `idle_s`.

        Raises `AttemptFailed`; `TimeoutError` comes from the caller's clock.
        """
        request = self._session.post(
            url,
            data=body,
            headers={**headers, "x-switchboard-secret": self._secret, "content-type": "application/json"},
            allow_redirects=False,
        )
        try:
            response = await request
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise AttemptFailed("connect", sent=False) from error
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            # A replica whose process is gone takes its open connections along: it did not fail on this request.
            gone = not await self._listens(url)
            raise AttemptFailed("connect" if gone else "reset", sent=not gone) from error
        except aiohttp.ClientError as error:
            raise AttemptFailed("malformed", sent=True) from error
        async with response:
            yield Answer(
                status=response.status,
                headers=[(k.lower(), v) for k, v in response.raw_headers if k.lower().decode("latin-1") in FORWARDED],
                streams=response.content_type == "text/event-stream",
                is_json=response.content_type == "application/json",
                code=response.headers.get("x-switchboard-error"),
                retry_after_s=_seconds(response.headers.get("retry-after", "")),
                _response=response,
                _clock=clock,
                _idle_s=idle_s,
            )

    async def _listens(self, url: str) -> bool:
        """Whether anybody accepts connections at the URL's address."""
        address = URL(url)
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                _, writer = await asyncio.open_connection(address.host, address.port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def get(self, url: str, timeout_s: float) -> bytes:
        """A replica's own page (its metrics). Raises `AttemptFailed`."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(
                url, headers={"x-switchboard-secret": self._secret}, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise AttemptFailed(f"status_{response.status}", sent=True)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AttemptFailed("reset", sent=True) from error

    async def close(self) -> None:
        await self._session.close()


def _seconds(value: str) -> float | None:
    """Of the `Retry-After` that managers send."""
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None
