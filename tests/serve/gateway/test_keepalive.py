"""Comments in a silent stream: when there are some, and where there is never one.

Where a test waits for comments that must not come, it waits by a timer of the same loop, which rings after theirs.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve.api.http import Message
from serve.gateway.exchange import COMMENT, Exchange
from serve.gateway.keepalive import KeepAlive
from serve.schemas import Dialect, Json
from tests.fakes import replica as fake
from tests.fakes.http_server import PATIENCE_S
from tests.fakes.replica import DONE, Gate, event
from tests.serve.gateway.running import CHAT, MESSAGES, Start, chat, message

RESPONSES = "/v1/responses"
OFTEN_S = 0.01
OFTEN: Json = {"timeouts": {"keepalive_s": OFTEN_S}}


async def some_periods() -> None:
    await asyncio.sleep(5 * OFTEN_S)


class Client:
    """An ASGI server's `send`: what the client got, and whether it takes any more."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.took = asyncio.Condition()
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def exchange(self) -> Exchange:
        receive: Any = asyncio.Event().wait
        return Exchange({"headers": []}, receive, self._send, "id", Dialect.OPENAI)

    async def _send(self, sent: Message) -> None:
        await self.reads.wait()
        async with self.took:
            self.got.append(sent["body"])
            self.took.notify_all()

    async def comments(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self.took:
            await self.took.wait_for(lambda: self.got.count(COMMENT) >= count)


@pytest.fixture
def reader() -> Client:
    return Client()


# In a stream.


async def test_a_silent_stream_is_kept_alive_and_passes_as_it_is(start: Start) -> None:
    running = await start(**OFTEN)
    client = await running.client()
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(event(0))
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert await answer.content.readuntil(b"\n\n") == event(0)
        for _ in range(3):
            assert await answer.content.readuntil(b"\n\n") == COMMENT
        gate.send(event(1) + event(2)[:9])  # what is held back of an event is silence too
        read = await answer.content.readuntil(event(1))
        assert read.replace(COMMENT, b"") == event(1)
        assert await answer.content.readuntil(b"\n\n") == COMMENT
        gate.send(event(2)[9:])
        gate.send(DONE)
        gate.end()
        rest = await answer.read()
    assert rest.replace(COMMENT, b"") == event(2) + DONE
    assert rest.endswith(DONE)


async def test_it_can_be_switched_off(start: Start) -> None:
    running = await start(timeouts={"keepalive_s": None, "idle_s": 0.1})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.stalls_after(1)
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert COMMENT not in await answer.read()


@pytest.mark.parametrize("chunk", [b"", b"data: hal"], ids=["nothing", "half an event"])
async def test_none_before_the_first_event(start: Start, chunk: bytes) -> None:
    running = await start(timeouts={"keepalive_s": OFTEN_S, "first_byte_s": 0.1, "idle_s": 0.1})
    client = await running.client()
    replica = await running.replica()
    replica.behave = gate = Gate()
    if chunk:
        gate.send(chunk)
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert answer.status == 504
        assert (await answer.json())["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("path", "end"),
    [(path, end) for path in (CHAT, MESSAGES, RESPONSES) for end in ("idle", "reset")] + [(CHAT, "total")],
)
async def test_it_gives_the_model_no_more_time(start: Start, path: str, end: str) -> None:
    bounds: Json = {"idle": {"idle_s": 0.5}, "total": {"connect_s": 1, "first_byte_s": 1, "idle_s": 1, "total_s": 1}}
    running = await start(timeouts={"keepalive_s": OFTEN_S, **bounds.get(end, {})})
    client = await running.client()
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(b'data: {"sequence_number": 6}\n\n')
    asked = {"model": "demo", "input": "Hello?", "stream": True} if path == RESPONSES else message(stream=True)
    async with client.post(path, json=asked) as answer:
        await answer.content.readuntil(COMMENT)
        if end == "reset":
            gate.reset()
        rest = (await answer.read()).replace(COMMENT, b"")
    errors = [json.loads(line[6:]) for line in rest.splitlines() if line.startswith(b"data: {")]
    assert len(errors) == 1
    if path == RESPONSES:
        assert errors[0]["sequence_number"] == 7
    assert rest.endswith(DONE) == (path == CHAT)
    await (await replica.call()).until_gone()


async def test_an_answer_that_does_not_stream_has_none(start: Start) -> None:
    running = await start(timeouts={"keepalive_s": OFTEN_S, "first_byte_s": 0.1})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.hangs
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 504
        assert COMMENT not in await answer.read()


# Where there is never one.


async def test_none_inside_an_event_that_is_passed_on_in_pieces(reader: Client) -> None:
    async with KeepAlive(reader.exchange, OFTEN_S) as stream:
        for piece in (b"data: a very", b" long", b" one\r\n\r\n"):
            await stream.send(piece)
            await some_periods()
        assert reader.got[:3] == [b"data: a very", b" long", b" one\r\n\r\n"]
        await reader.comments(1)


async def test_none_while_a_piece_waits_for_a_slow_reader(reader: Client) -> None:
    async with KeepAlive(reader.exchange, OFTEN_S) as stream:
        await stream.send(event(0))
        reader.reads.clear()
        sending = asyncio.create_task(stream.send(event(1)))
        await some_periods()
        reader.reads.set()
        await sending
        assert [got for got in reader.got if got != COMMENT] == [event(0), event(1)]
        assert reader.got[-1] == event(1)
        await reader.comments(1)


async def test_a_piece_goes_behind_a_comment_that_waits_for_a_slow_reader(reader: Client) -> None:
    async with KeepAlive(reader.exchange, OFTEN_S) as stream:
        await stream.send(event(0))
        reader.reads.clear()
        await some_periods()
        sending = asyncio.create_task(stream.send(event(1)))
        await some_periods()
        assert reader.got == [event(0)]
        reader.reads.set()
        await sending
        assert reader.got == [event(0), COMMENT, event(1)]  # one, for however long it did not read


async def test_none_once_the_stream_is_left(reader: Client) -> None:
    before = asyncio.all_tasks()
    async with KeepAlive(reader.exchange, OFTEN_S) as stream:
        await stream.send(event(0))
        await reader.comments(1)
    got = list(reader.got)
    assert asyncio.all_tasks() == before
    await some_periods()
    assert reader.got == got


async def test_none_behind_the_last_word(reader: Client) -> None:
    exchange = reader.exchange
    async with KeepAlive(exchange, OFTEN_S) as stream:
        await stream.send(event(0))
        reader.reads.clear()
        await some_periods()
        before = asyncio.all_tasks()
    reader.reads.set()
    await exchange.body(DONE, more=False)
    await some_periods()
    assert reader.got == [event(0), DONE]
    assert len(before - asyncio.all_tasks()) == 1  # the comment's


async def test_a_cancellation_reaches_a_piece_that_waits_behind_a_comment(reader: Client) -> None:
    async def stream() -> None:
        async with KeepAlive(reader.exchange, OFTEN_S) as stream:
            await stream.send(event(0))
            reader.reads.clear()
            await some_periods()
            waits.set()
            await stream.send(event(1))

    waits, before = asyncio.Event(), asyncio.all_tasks()
    task = asyncio.create_task(stream())
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    assert reader.got == [event(0)]


async def test_a_comment_is_no_piece_of_the_answer(reader: Client) -> None:
    exchange = reader.exchange
    async with KeepAlive(exchange, OFTEN_S) as stream:
        await stream.send(event(0))
        await reader.comments(2)
    assert exchange.sent_last == event(0)
