"""Clients that leave, and clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

from serve.gateway.exchange import COMMENT, Exchange
from serve.schemas import Dialect
from tests.fakes import replica as fake
from tests.fakes.http_server import PATIENCE_S, Call
from tests.fakes.replica import event
from tests.serve.gateway.running import CHAT, Running, Start, chat, sample

Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(running: Running, **options: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(body: bytes, path: str = CHAT, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode() + body


class Told:
    """What the gateway has counted since this was made. Its counters move when a request has ended."""

    def __init__(self) -> None:
        self._before = self._gone()

    def _gone(self) -> float:
        return sum(
            sample("switchboard_requests_total", endpoint=endpoint, model=model, status="499")
            for endpoint in ("-", "chat")
            for model in ("-", "demo")
        )

    async def once_gone(self, running: Running) -> None:
        """Returns when the one request has been counted as one that the client left."""
        await asyncio.wait_for(_idle(running), PATIENCE_S)
        assert self._gone() == self._before + 1
        assert sample("switchboard_in_flight") == 0
        assert running.gateway.state.in_flight.unreported.get("one", 0) == 0


async def _idle(running: Running) -> None:
    """Until the gateway answers a request that needs the only place."""
    while True:
        async with connected(running) as (reader, writer):
            writer.write(request(b"[]"))
            status = (await reader.readline()).split()[1]
        if status == b"400":
            return
        assert status == b"429"


@pytest.fixture
async def one_place(start: Start) -> Running:
    """A gateway that takes one request at once."""
    return await start(limits={"max_in_flight": 1})


async def test_gone_while_its_body_is_on_its_way(one_place: Running) -> None:
    told = Told()
    async with connected(one_place) as (_, writer):
        writer.write(request(b'{"model"', length=1000))
        await asyncio.wait_for(_refused_meanwhile(one_place), PATIENCE_S)
    await told.once_gone(one_place)


async def _refused_meanwhile(running: Running) -> None:
    """The place is taken."""
    status = b""
    while status != b"429":
        async with connected(running) as (reader, writer):
            writer.write(request(b"[]"))
            status = (await reader.readline()).split()[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_gone_before_the_first_byte(one_place: Running, stream: bool) -> None:
    told = Told()
    replica = await one_place.replica()
    replica.behave = fake.stalls_after(0) if stream else fake.hangs
    async with connected(one_place) as (_, writer):
        writer.write(request(json.dumps(chat(stream=stream)).encode()))
        call = await replica.call()
    await call.until_gone()
    await told.once_gone(one_place)
    assert len(replica.calls) == 1


async def test_gone_in_the_middle_of_a_stream(one_place: Running) -> None:
    told = Told()
    replica = await one_place.replica()
    replica.behave = fake.stalls_after(3)
    async with connected(one_place) as (reader, writer):
        writer.write(request(json.dumps(chat(stream=True)).encode()))
        await reader.readuntil(event(2))
    await (await replica.call()).until_gone()
    await told.once_gone(one_place)


async def test_gone_between_two_comments(start: Start) -> None:
    running = await start(limits={"max_in_flight": 1}, timeouts={"keepalive_s": 0.01})
    told = Told()
    replica = await running.replica()
    replica.behave = fake.stalls_after(1)
    async with connected(running) as (reader, writer):
        writer.write(request(json.dumps(chat(stream=True)).encode()))
        for _ in range(2):
            await reader.readuntil(COMMENT)
    await (await replica.call()).until_gone()
    await told.once_gone(running)


async def test_gone_in_the_middle_of_a_long_answer(one_place: Running) -> None:
    told = Told()
    replica = await one_place.replica()

    async def half(call: Call) -> None:
        await call.start(200, ("content-type", "application/json"), ("content-length", "1000"))
        await call.write(b"{")
        await fake.hangs(call)

    replica.behave = half
    async with connected(one_place) as (_, writer):
        writer.write(request(json.dumps(chat()).encode()))
        call = await replica.call()
    await call.until_gone()
    await told.once_gone(one_place)


async def test_attempts_that_a_client_left_are_counted_as_such(one_place: Running) -> None:
    before = sample("switchboard_attempts_total", model="demo", outcome="client_gone")
    await test_gone_in_the_middle_of_a_stream(one_place)
    assert sample("switchboard_attempts_total", model="demo", outcome="client_gone") == before + 1


class Flood:
    """Sends events as fast as it is allowed to, and counts them."""

    def __init__(self) -> None:
        self.sent = 0
        self._event = b"data: " + b"x" * 16_000 + b"\n\n"

    async def __call__(self, call: Call) -> None:
        await fake.start_stream(call)
        while not call.gone.is_set():
            await call.chunk(self._event)
            self.sent += len(self._event)


async def test_a_reader_that_stops_reading_stops_the_replica_and_not_the_others(start: Start) -> None:
    running = await start(timeouts={"idle_s": 0.5})
    replica = await running.replica()
    replica.behave = flood = Flood()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", running.port))
    with slow:
        slow.sendall(request(json.dumps(chat(stream=True)).encode()))
        call = await replica.call()
        replica.behave = fake.streams(3)
        client = await running.client()
        async with client.post(CHAT, json=chat(stream=True)) as answer:
            assert (await answer.read()).count(b"data: {") == 3
        # Its place is given up once it has read nothing for `idle_s`, though it is still connected.
        await call.until_gone()
        await asyncio.wait_for(_nothing_in_flight(running), PATIENCE_S)
    # What the kernel's buffers on both connections hold, and a few hundred kilobytes of ours.
    assert flood.sent < 16 << 20


async def _nothing_in_flight(running: Running) -> None:
    while sample("switchboard_in_flight"):  # noqa: ASYNC110  (the end of a request has no event that a client sees)
        await asyncio.sleep(0)


async def test_a_cancellation_from_outside_is_no_client_that_left() -> None:
    receive: Callable[[], Awaitable[dict[str, str]]] = asyncio.Event().wait  # type: ignore[assignment]
    exchange = Exchange({"headers": []}, receive, receive, "id", Dialect.OPENAI)  # type: ignore[arg-type]
    entered = asyncio.Event()

    async def block() -> None:
        with exchange.until_client_leaves():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
