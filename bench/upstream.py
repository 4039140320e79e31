"""A provider of OpenAI's dialect that answers at once, always the same: what is left is the gateway's own time.

python -m bench.upstream PORT
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from typing import cast

import httptools
import uvloop
from typing_extensions import override

from bench.client import HOST
from serve.schemas import Json

MODEL = "gpt"
"""What it calls its model, and every gateway too."""
HEALTH = "/health"
WORDS = [f"word{number:02d} " for number in range(30)]
STREAMED_TEXT = "".join(WORDS)
WHOLE_TEXT = "We are open from nine to five."
_ASKS_FOR_STREAM = re.compile(rb'"stream"\s*:\s*true')


def completion() -> bytes:
    """The body of a whole answer."""
    message = {"role": "assistant", "content": WHOLE_TEXT}
    return _json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17},
        }
    )


def events() -> list[bytes]:
    """A streamed answer: the role, the words, why it ended, `[DONE]`."""
    said = [_event({"content": word}) for word in WORDS]
    return [_event({"role": "assistant", "content": ""}), *said, _event({}, "stop"), b"data: [DONE]\n\n"]


def _event(delta: Json, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: %b\n\n" % _json(chunk)


def _json(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _whole_answer() -> bytes:
    body = completion()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _streamed_answer() -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events())


WHOLE, STREAMED = _whole_answer(), _streamed_answer()
LAST_CHUNK = b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection. Its `on_…` methods are httptools' callbacks."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._give_up()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        goes_on = self._parser.should_keep_alive()
        if _ASKS_FOR_STREAM.search(self._body):
            self._write(STREAMED)
            # Apart from `[DONE]`, as it may come from real providers: who leaves before it loses the connection.
            asyncio.get_running_loop().call_soon(self._end, LAST_CHUNK, goes_on)
        else:
            self._end(WHOLE, goes_on)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def _end(self, data: bytes, goes_on: bool) -> None:
        self._write(data)
        if self._transport is not None and not goes_on:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def serve(port: int) -> None:
    """Until it is cancelled."""
    server = await asyncio.get_running_loop().create_server(Upstream, HOST, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
