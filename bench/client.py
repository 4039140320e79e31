"""A lean client of chat completions: HTTP/1.1, one request at a time on a kept connection.

It runs on the cores that it measures, so it does little: httptools parses HTTP in C, an event is judged by a few
searches in its bytes, and all that one read brings shares one look at the clock.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import httptools
from typing_extensions import override

from serve.schemas import Json

TIMEOUT_S = 120.0
"""For one answer, from its request to its end."""
HOST = "127.0.0.1"
PATH = "/v1/chat/completions"
NO_END = "the stream ended without [DONE]"
_CONTENT = re.compile(rb'"content"\s*:\s*"([^"\\]*)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """When the parts of one answer came, in seconds of `time.perf_counter`.

    `arrivals` has an entry for each event that brought a token. `tokens` is what the server counted. `fault` says what
    was wrong with the answer; empty if nothing was.
    """

    sent: float
    arrivals: tuple[float, ...]
    ended: float
    tokens: int
    fault: str = ""


class Body(Protocol):
    """Reads and judges the body of a good answer."""

    tokens: int

    def feed(self, chunk: bytes) -> int:
        """Take a piece. Returns how many events with a token it completed."""

    @property
    def fault(self) -> str:
        """What is wrong with all that came; empty if nothing is."""


class ChatEvents:
    """Reads the events of one streamed chat completion, however its bytes are cut.

    For servers that write JSON without spaces and end events with two line feeds, as vLLM does.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.done = False
        self.error = ""
        self._held = b""

    def feed(self, chunk: bytes) -> int:
        """Take a piece of the stream. Returns how many events with a token it completed."""
        *events, self._held = (self._held + chunk).split(b"\n\n")
        return sum([self._has_token(event) for event in events])

    @property
    def fault(self) -> str:
        return self.error or ("" if self.done else NO_END)

    def _has_token(self, event: bytes) -> bool:
        # Inside a JSON string the quotes would be escaped, so the searches find keys only. A token may have no text of
        # its own (half a character, a special token); the first event, which has a role, comes before any token.
        if b'"content":"' in event and b'"role":"' not in event:
            return True
        if b'"usage":{' in event:
            self.tokens = json.loads(event.removeprefix(b"data: "))["usage"]["completion_tokens"]
        elif event == b"data: [DONE]":
            self.done = True
        elif b'"error":{' in event:
            self.error = event.decode("utf-8", "replace")
        return False


class KnownText:
    """Reads an answer whose text is known, streamed or whole, however a gateway has written its JSON anew.

    `text` needs no escapes in JSON. The pieces of a stream are put together, so it may be cut anywhere.
    """

    tokens = 0

    def __init__(self, text: str, *, streamed: bool) -> None:
        self._text = text.encode()
        self._streamed = streamed
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> int:
        self._pieces.append(chunk)
        return 0

    @property
    def fault(self) -> str:
        body = b"".join(self._pieces)
        if self._streamed and b"data: [DONE]" not in body:
            return NO_END
        text = b"".join(_CONTENT.findall(body))
        return "" if text == self._text else f"another text: {text[:80].decode('utf-8', 'replace')!r}"


class Connection(asyncio.Protocol):
    """One connection to a server on this machine; opened, and opened anew after a fault, by `ask`.

    `body` makes the reader of each answer.
    """

    def __init__(self, port: int, body: Callable[[], Body] = ChatEvents) -> None:
        self._port = port
        self._body = body
        self._transport: asyncio.Transport | None = None
        self._reading: _Reading | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request, made by `post`, and read its answer to the end."""
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                transport = self._transport or await self._open()
                # Set before anything can arrive: one request is under way at a time.
                reading = self._reading = _Reading(self._body())
                transport.write(request)
                await reading.finished
        except TimeoutError:
            self._drop()
            return Answer(sent, (), time.perf_counter(), 0, f"no answer within {TIMEOUT_S:g} s")
        except OSError as error:
            return Answer(sent, (), time.perf_counter(), 0, f"no connection: {type(error).__name__}")
        if not reading.keeps_alive:
            self._drop()
        return reading.answer(sent)

    def close(self) -> None:
        self._drop()

    async def _open(self) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: self, HOST, self._port)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        return transport

    def _drop(self) -> None:
        transport, self._transport, self._reading = self._transport, None, None
        if transport is not None:
            transport.abort()

    @override
    def data_received(self, data: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        reading, self._transport, self._reading = self._reading, None, None
        if reading is not None:
            reading.break_off("the connection was closed")


class _Reading:
    """What has come of one answer. Its `on_…` methods are httptools' callbacks."""

    def __init__(self, body: Body) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._body = body
        self._arrivals: list[float] = []
        self._now = 0.0
        self._refusal = b""
        self._fault = ""

    def feed(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.break_off("the answer is not HTTP")

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() == 200:
            self._arrivals += [self._now] * self._body.feed(body)
        else:
            self._refusal += body

    def on_message_complete(self) -> None:
        self.keeps_alive = self._parser.should_keep_alive()
        status = self._parser.get_status_code()
        if status != 200:
            self._fault = f"status {status}: {self._refusal[:200].decode('utf-8', 'replace')}"
        else:
            self._fault = self._body.fault
        self._finish()

    def break_off(self, fault: str) -> None:
        if not self.finished.done():
            self._now = time.perf_counter()
            self._fault = fault
            self._finish()

    def answer(self, sent: float) -> Answer:
        return Answer(sent, tuple(self._arrivals), self._now, self._body.tokens, self._fault)

    def _finish(self) -> None:
        # A waiter that has run out of time has cancelled the future.
        if not self.finished.done():
            self.finished.set_result(None)


def chat(model: str, text: str, tokens: int) -> Json:
    """The body of a streamed chat completion of exactly `tokens` tokens, the same ones each time."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def post(path: str, body: Json, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an HTTP request with a JSON body."""
    payload = json.dumps(body).encode()
    fields = {"host": HOST, "content-type": "application/json", "content-length": len(payload), **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload
