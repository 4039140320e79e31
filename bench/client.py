"""A lean client of streamed chat completions: HTTP/1.1, one request at a time on a kept connection.

It runs on the cores that it measures, so it does little: httptools parses HTTP in C, an event is judged by a few
searches in its bytes, and all that one read brings shares one look at the clock.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import dataclass

import httptools
from typing_extensions import override

from serve.schemas import Json

TIMEOUT_S = 120.0
"""For one answer, from its request to its end."""
HOST = "127.0.0.1"


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


class Connection(asyncio.Protocol):
    """One connection to a server on this machine; opened, and opened anew after a fault, by `ask`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._reading: _Reading | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request, made by `post`, and read its answer to the end."""
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                transport = self._transport or await self._open()
                # Set before anything can arrive: one request is under way at a time.
                reading = self._reading = _Reading()
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

    def __init__(self) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._events = ChatEvents()
        self._arrivals: list[float] = []
        self._now = 0.0
        self._body = b""
        self._fault = ""

    def feed(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.break_off("the answer is not HTTP")

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() == 200:
            self._arrivals += [self._now] * self._events.feed(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self.keeps_alive = self._parser.should_keep_alive()
        status = self._parser.get_status_code()
        if status != 200:
            self._fault = f"status {status}: {self._body[:200].decode('utf-8', 'replace')}"
        elif self._events.error:
            self._fault = self._events.error
        elif not self._events.done:
            self._fault = "the stream ended without [DONE]"
        self._finish()

    def break_off(self, fault: str) -> None:
        if not self.finished.done():
            self._now = time.perf_counter()
            self._fault = fault
            self._finish()

    def answer(self, sent: float) -> Answer:
        return Answer(sent, tuple(self._arrivals), self._now, self._events.tokens, self._fault)

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


def post(path: str, body: Json) -> bytes:
    """The bytes of an HTTP request with a JSON body."""
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}"
    return head.encode() + b"\r\n\r\n" + payload
