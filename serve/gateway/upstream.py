"""The client side of the byte path: one HTTP request to one manager replica.

Bytes go through as they come. Nothing here knows what a chunk holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache

from yarl import URL

from serve.config import Timeouts
from serve.gateway.clock import Clock
from serve.gateway.connection import BrokenOff, Connection, Malformed, Pool, head

FORWARDED = frozenset({b"content-type", b"retry-after", b"retry-after-ms", b"x-should-retry", b"allow"})
"""Response headers that pass from a replica to the client; all others belong to the hop."""

KEEPALIVE_S = 15.0
"""Of an idle connection: less than the replicas' servers grant."""
MAX_PAGE_BYTES = 16 << 20
"""Of a replica's own page."""
_JSON = ("content-type", "application/json")


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
    _connection: Connection
    _clock: Clock
    _idle_s: float

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `AttemptFailed` when it breaks off."""
        try:
            while chunk := await self._connection.read():
                self._clock.allow(self._idle_s)
                yield chunk
        except (BrokenOff, Malformed) as error:
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
    """A pool of connections to the manager replicas: as many as there are requests, which the gateway bounds.

    To be made in a running loop.
    """

    def __init__(self, timeouts: Timeouts, secret: str) -> None:
        self._timeouts = timeouts
        self._secret = ("x-switchboard-secret", secret)
        self._pool = Pool(timeouts.connect_s, KEEPALIVE_S)

    @asynccontextmanager
    async def post(
        self, url: str, path: str, body: bytes, headers: Mapping[str, str], clock: Clock, idle_s: float
    ) -> AsyncIterator[Answer]:
        """Send one request to the replica at `url` and give its answer's head.

        Each piece of the answer's body gives the next one `idle_s`. Raises `AttemptFailed`; `TimeoutError` comes from
        the caller's clock.
        """
        address = _address(url)
        told = (*headers.items(), self._secret, _JSON)
        request = head("POST", path, address.authority, told, len(body))
        async with self._asking(address, request, body) as connection:
            answered = dict(connection.headers)
            content_type = answered.get(b"content-type", b"").partition(b";")[0].strip().lower()
            yield Answer(
                status=connection.status,
                headers=[(name, value) for name, value in connection.headers if name in FORWARDED],
                streams=content_type == b"text/event-stream",
                is_json=content_type == b"application/json",
                code=answered[b"x-switchboard-error"].decode("latin-1") if b"x-switchboard-error" in answered else None,
                retry_after_s=_seconds(answered.get(b"retry-after", b"")),
                _connection=connection,
                _clock=clock,
                _idle_s=idle_s,
            )

    @asynccontextmanager
    async def _asking(self, address: _Address, request: bytes, body: bytes) -> AsyncIterator[Connection]:
        """A connection on which the head of the answer has come."""
        try:
            connection = await self._pool.take(address.host, address.port)
        except OSError as error:
            raise AttemptFailed("connect", sent=False) from error
        try:
            try:
                await connection.ask(request, body)
            except BrokenOff as error:
                # A replica whose process is gone takes its open connections along: it did not fail on this request.
                gone = not await self._listens(address)
                raise AttemptFailed("connect" if gone else "reset", sent=not gone) from error
            except Malformed as error:
                raise AttemptFailed("malformed", sent=True) from error
            yield connection
        finally:
            self._pool.give_back(address.host, address.port, connection)

    async def _listens(self, address: _Address) -> bool:
        """Whether anybody accepts connections there."""
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                _, writer = await asyncio.open_connection(address.host, address.port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def get(self, url: str, path: str, timeout_s: float) -> bytes:
        """A replica's own page (its metrics). Raises `AttemptFailed`."""
        address = _address(url)
        request = head("GET", path, address.authority, [self._secret], 0)
        try:
            async with asyncio.timeout(timeout_s), self._asking(address, request, b"") as connection:
                if connection.status != 200:
                    raise AttemptFailed(f"status_{connection.status}", sent=True)
                page = bytearray()
                while chunk := await connection.read():
                    page += chunk
                    if len(page) > MAX_PAGE_BYTES:
                        raise AttemptFailed("too_large", sent=True)
                return bytes(page)
        except (BrokenOff, Malformed, TimeoutError) as error:
            raise AttemptFailed("reset", sent=True) from error

    def close(self) -> None:
        self._pool.close()


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    authority: str


@lru_cache(maxsize=1024)
def _address(url: str) -> _Address:
    """Of a replica, as it registered itself."""
    parsed = URL(url)
    assert parsed.host is not None
    assert parsed.port is not None
    return _Address(parsed.host, parsed.port, parsed.raw_authority)


def _seconds(value: bytes) -> float | None:
    """Of the `Retry-After` that managers send."""
    return float(value) if value.isdigit() and len(value) < 7 else None
