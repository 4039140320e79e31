"""HTTP/1.1 to the manager replicas: connections that are kept, on asyncio's own transports.

Only what this hop needs, between two processes of ours: a request with a whole body, an answer that tells its length
or comes in chunks. It is here because it is on the way of every byte: with aiohttp's client, which can do everything,
a router needs a fourth more time for a request (`docs/benchmarks.md`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import httptools
from typing_extensions import override

MAX_BUFFERED_BYTES = 256 << 10
"""Of an answer that is not read: then the replica has to wait."""
MAX_HEAD_BYTES = 64 << 10
"""Of an answer's status line and headers together."""


class BrokenOff(Exception):
    """The connection ended before the answer did."""


class Malformed(Exception):
    """What came is not HTTP, or more of it than was asked for."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time: `ask`, then `read` until it gives nothing more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._parser: Any = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._head_bytes = 0
        self._has_head = self._complete = self._is_last = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""

    async def ask(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for its answer's head. Raises `BrokenOff` or `Malformed`."""
        if self._error is None:
            assert self._transport is not None
            self._transport.writelines((head, body))
        while not self._has_head:
            await self._more()

    async def read(self) -> bytes:
        """What has come of the body since; b"" at its end. Raises `BrokenOff` or `Malformed`."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._more()
        piece = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused:
            assert self._transport is not None
            self._paused = False
            self._transport.resume_reading()
        return piece

    def is_idle(self) -> bool:
        """Whether it is open, and its last answer whole and read: it may be asked again."""
        return self._complete and not self._chunks and self._error is None and not self._is_last

    def reuse(self) -> bool:
        """Get ready for another request; False if the other side has ended it meanwhile."""
        if self._error is not None:
            return False
        self._begin()
        return True

    def abort(self) -> None:
        """End it now; the replica sees its client leave."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
                raise Malformed
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, Malformed):
            self._error = Malformed()
            self.abort()
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = BrokenOff()
        self._wake()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            raise Malformed  # nobody asked

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            raise Malformed  # nobody here asks for a 100
        self.status = status
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > MAX_BUFFERED_BYTES and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = True
        self._is_last = not self._parser.should_keep_alive()


class Pool:
    """Connections by address, those used last first. An idle one is kept for `keepalive_s`."""

    def __init__(self, connect_s: float, keepalive_s: float) -> None:
        self._connect_s = connect_s
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._idle: dict[tuple[str, int], deque[tuple[float, Connection]]] = {}
        self._swept_at = self._loop.time()
        self._closed = False

    async def take(self, host: str, port: int) -> Connection:
        """Raises `OSError` (or `TimeoutError`, which is one) if nobody is there."""
        idle = self._idle.get((host, port))
        oldest = self._loop.time() - self._keepalive_s
        while idle:
            since, connection = idle.pop()
            if since >= oldest and connection.reuse():
                return connection
            connection.abort()
        async with asyncio.timeout(self._connect_s):
            _, connection = await self._loop.create_connection(Connection, host, port)
        return connection

    def give_back(self, host: str, port: int, connection: Connection) -> None:
        """Keep it for another request if it may have one, or end it."""
        if self._closed or not connection.is_idle():
            connection.abort()
            return
        now = self._loop.time()
        self._idle.setdefault((host, port), deque()).append((now, connection))
        if now - self._swept_at > self._keepalive_s:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Also of addresses where nobody is any more."""
        self._swept_at = now
        for address, idle in list(self._idle.items()):
            while idle and idle[0][0] < now - self._keepalive_s:
                idle.popleft()[1].abort()
            if not idle:
                del self._idle[address]

    def close(self) -> None:
        """End what is idle now, and what is in use once it is given back."""
        self._closed = True
        for idle in self._idle.values():
            for _, connection in idle:
                connection.abort()
        self._idle.clear()


def head(method: str, path: str, host: str, headers: Iterable[tuple[str, str]], length: int) -> bytes:
    """A request's first part. Raises `ValueError` if a header would be more than one."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a line break in a header")
    return f"{text}\r\n\r\n".encode("latin-1")
