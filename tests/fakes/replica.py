"""A manager replica as a router sees it: the manager's protocol over HTTP, and all the ways in which it can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from serve.schemas import AdapterVersion, Load, ReplicaPhase, ReplicaState
from tests.fakes.http_server import Behaviour, Call, HttpServer

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "demo",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
}


class Replica(HttpServer):
    """Answers with a chat completion until told otherwise."""

    def __init__(self, replica_id: str, models: Sequence[str] = ("demo",), capacity: int = 100) -> None:
        super().__init__(answers(COMPLETION))
        self.replica_id = replica_id
        self.models = tuple(models)
        self.capacity = capacity

    def state(
        self,
        phase: ReplicaPhase = ReplicaPhase.READY,
        adapters: Sequence[AdapterVersion] = (),
        load: Load | None = None,
    ) -> ReplicaState:
        """What it would say in a heartbeat."""
        return ReplicaState(
            replica_id=self.replica_id,
            url=self.url,
            phase=phase,
            models=self.models,
            capacity=self.capacity,
            load=load or Load(),
            adapters=tuple(adapters),
        )


def event(number: int) -> bytes:
    """One event of a chat stream, numbered so that a test can tell lost, doubled and torn ones."""
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"<{number}>"}}]}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


DONE = b"data: [DONE]\n\n"


def answers(payload: Any, status: int = 200, *headers: tuple[str, str]) -> Behaviour:
    return answers_bytes(json.dumps(payload).encode(), status, ("content-type", "application/json"), *headers)


def answers_bytes(body: bytes, status: int = 200, *headers: tuple[str, str]) -> Behaviour:
    async def behave(call: Call) -> None:
        await call.start(status, ("content-length", str(len(body))), *headers)
        await call.write(body)

    return behave


async def start_stream(call: Call) -> None:
    await call.start(200, ("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked"))


def streams(count: int) -> Behaviour:
    """`count` events and the end."""

    async def behave(call: Call) -> None:
        await start_stream(call)
        for number in range(count):
            await call.chunk(event(number))
        await call.chunk(DONE)
        await call.chunk(b"")

    return behave


def streams_bytes(*chunks: bytes) -> Behaviour:
    """These pieces, cut as given, and the end."""

    async def behave(call: Call) -> None:
        await start_stream(call)
        for chunk in chunks:
            await call.chunk(chunk)
        await call.chunk(b"")

    return behave


def stalls_after(count: int) -> Behaviour:
    """`count` events, then silence until the other side leaves."""

    async def behave(call: Call) -> None:
        await start_stream(call)
        for number in range(count):
            await call.chunk(event(number))
        await call.gone.wait()
        call.close()

    return behave


async def hangs(call: Call) -> None:
    """Not a byte, until the other side leaves."""
    await call.gone.wait()
    call.close()


async def resets(call: Call) -> None:
    """Not a byte, and the connection is broken."""
    call.reset()


def cut_at(size: int) -> Behaviour:
    """The first bytes of a good answer, and the end of the connection."""

    async def behave(call: Call) -> None:
        body = json.dumps(COMPLETION)
        answer = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        assert size < len(answer)
        await call.write(answer.encode()[:size])
        call.close()

    return behave


def declares(length: int, body: bytes) -> Behaviour:
    """A body with a Content-Length that is not its own."""

    async def behave(call: Call) -> None:
        await call.start(200, ("content-type", "application/json"), ("content-length", str(length)))
        await call.write(body)
        call.close()

    return behave


async def empty_stream(call: Call) -> None:
    await start_stream(call)
    await call.chunk(b"")


async def speaks_no_http(call: Call) -> None:
    await call.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    call.close()


async def closes_after_answer(call: Call) -> None:
    """A whole answer, which does not say that the connection ends with it."""
    await answers(COMPLETION)(call)
    call.close()


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Each request meets the next behaviour; the last one stays."""
    left = list(behaviours)

    async def behave(call: Call) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(call)

    return behave


class Gate:
    """A stream whose every step waits for the test, which can so be sure of what was read before the next."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[Behaviour] = asyncio.Queue()
        self._ended = False

    async def __call__(self, call: Call) -> None:
        await start_stream(call)
        while not self._ended or not self._steps.empty():
            await (await self._steps.get())(call)

    def send(self, chunk: bytes) -> None:
        self._steps.put_nowait(lambda call: call.chunk(chunk))

    def end(self) -> None:
        self._last(lambda call: call.chunk(b""))

    def reset(self) -> None:
        self._last(resets)

    def _last(self, step: Behaviour) -> None:
        self._ended = True
        self._steps.put_nowait(step)
