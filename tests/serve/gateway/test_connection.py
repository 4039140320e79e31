"""The client side of the byte path: how an answer is cut changes nothing, and a bad one is never taken for a good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.gateway import connection as http
from serve.gateway.connection import BrokenOff, Connection, Malformed, Pool, head
from tests.fakes.http_server import PATIENCE_S

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;note=x\r\n world\r\n0\r\ntrailer: 1\r\n\r\n"
)
BODY = b"hello world"


class FakeTransport:
    """What a connection does with its transport."""

    def __init__(self) -> None:
        self.sent = b""
        self.aborted = False
        self.paused = False

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.sent += b"".join(pieces)

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def connected() -> tuple[Connection, FakeTransport]:
    one, transport = Connection(), FakeTransport()
    one.connection_made(transport)  # type: ignore[arg-type]
    return one, transport


async def answer(pieces: list[bytes], *, then_ends: bool = False) -> tuple[int, bytes, Connection]:
    """Status and body of an answer that comes in these pieces."""
    one, _ = connected()
    asking = asyncio.ensure_future(one.ask(b"", b""))
    await asyncio.sleep(0)
    for piece in pieces:
        one.data_received(piece)
    if then_ends:
        one.connection_lost(None)
    await asking
    body = b""
    while piece := await one.read():
        body += piece
    return one.status, body, one


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("said", [WHOLE, CHUNKED], ids=["length", "chunks"])
@given(places=st.lists(st.integers(0, 500), max_size=30))
def test_how_it_is_cut_changes_nothing(said: bytes, places: list[int]) -> None:
    status, body, one = asyncio.run(answer(cut(said, places)))
    assert (status, body) == (200, BODY)
    assert one.is_idle()


@given(said=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=5))
def test_whatever_comes_is_an_answer_or_one_of_two_faults(said: bytes, places: list[int]) -> None:
    pieces = cut(said, places) if said else []
    with contextlib.suppress(BrokenOff, Malformed):
        asyncio.run(answer(pieces, then_ends=True))


@pytest.mark.parametrize("said", [WHOLE, CHUNKED], ids=["length", "chunks"])
@given(end=st.integers(0, 500))
def test_what_ends_early_is_no_answer(said: bytes, end: int) -> None:
    async def read() -> None:
        with pytest.raises(BrokenOff):
            await answer([said[: end % len(said)]], then_ends=True)

    asyncio.run(read())


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (http.MAX_HEAD_BYTES + 1),
    ],
    ids=["not HTTP", "continue", "upgrade", "two lengths", "length and chunks", "endless head"],
)
async def test_what_is_malformed_ends_the_connection(said: bytes) -> None:
    one, transport = connected()
    one.data_received(said)
    with pytest.raises(Malformed):
        await one.ask(b"", b"")
    assert transport.aborted
    assert not one.is_idle()


@pytest.mark.parametrize("more", [b"x", WHOLE], ids=["rubbish", "another answer"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_nobody_asked_for_is_not_kept_for_the_next_request(more: bytes, at_once: bool) -> None:
    one, transport = connected()
    for piece in [WHOLE + more] if at_once else [WHOLE, more]:
        one.data_received(piece)
    await one.ask(b"", b"")
    assert (one.status, await one.read(), await one.read()) == (200, BODY, b"")
    assert not one.is_idle()
    assert not one.reuse()
    assert transport.aborted


async def test_an_answer_that_says_it_is_the_last_one_is_believed() -> None:
    _, body, one = await answer([WHOLE.replace(b"Content-Type", b"Connection: close\r\nContent-Type")])
    assert body == BODY
    assert not one.is_idle()


async def test_who_does_not_read_is_not_sent_more() -> None:
    one, transport = connected()
    size = http.MAX_BUFFERED_BYTES + 1
    one.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * size))
    await one.ask(b"", b"")
    one.data_received(b"x" * size)
    assert transport.paused
    assert len(await one.read()) == size
    assert not transport.paused


def test_a_header_is_one_line() -> None:
    assert (
        head("GET", "/x", "h:1", [("a", "b")], 0)
        == b"GET /x HTTP/1.1\r\nhost: h:1\r\ncontent-length: 0\r\na: b\r\n\r\n"
    )
    for break_ in ("\r\n", "\n", "\r"):
        with pytest.raises(ValueError, match="line break"):
            head("GET", "/x", "h", [("a", f"b{break_}evil: 1")], 0)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handle: Handler) -> AsyncIterator[int]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class TestPool:
    async def ask(self, pool: Pool, port: int) -> bytes:
        one = await pool.take("127.0.0.1", port)
        try:
            await one.ask(head("GET", "/", "x", [], 0), b"")
            return await one.read()
        finally:
            pool.give_back("127.0.0.1", port, one)

    async def test_connections_are_used_again(self) -> None:
        connections = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                writer.write(WHOLE)

        pool = Pool(PATIENCE_S, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S), listening(handle) as port:
            assert [await self.ask(pool, port) for _ in range(3)] == [BODY] * 3
            assert connections == 1
            pool.close()

    async def test_one_that_the_other_side_ended_is_not(self) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)

        pool = Pool(PATIENCE_S, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S), listening(handle) as port:
            assert await self.ask(pool, port) == BODY
            ((_, kept),) = pool._idle["127.0.0.1", port]
            while kept.reuse():  # noqa: ASYNC110 - the pool tells nobody of it
                await asyncio.sleep(0)
            assert await self.ask(pool, port) == BODY

    async def test_idle_ones_end(self) -> None:
        left = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)
            await reader.read()
            left.set()

        pool = Pool(PATIENCE_S, keepalive_s=0.0)
        async with asyncio.timeout(PATIENCE_S), listening(handle) as port:
            assert await self.ask(pool, port) == BODY
            assert await self.ask(pool, port) == BODY
            await left.wait()
            pool.close()

    async def test_nobody_there(self) -> None:
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            await Pool(PATIENCE_S, PATIENCE_S).take("127.0.0.1", 1)
