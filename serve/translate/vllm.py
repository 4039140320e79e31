"""vLLM's own app, mended to what the vendors publish.

`Mended` stands in front of the app in the same process. It turns its errors into ours, keeps back the status
of a stream until the stream has something to say, and mends bodies and events that a strict reader would
refuse.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import EngineFailed, ServiceError, SwitchboardError, Unavailable
from serve.schemas import Json
from serve.translate.sse import EventTooLong, Splitter, parse
from serve.translate.vllm_bodies import MENDS, Aborted
from serve.translate.vllm_errors import from_body, from_exception
from serve.translate.vllm_events import STREAMS, StreamRules

logger = logging.getLogger(__name__)

REQUEST = "switchboard.request"
"""Key of the scope: the parsed request, whose fields a response repeats. May be absent."""
REQUEST_ID = "switchboard.request_id"
"""Key of the scope: what an error event inside a stream is signed with. May be absent."""

MAX_EVENT_BYTES = 8 << 20
"""Of one event; the longest are the last ones of `/v1/responses`, which hold the whole answer."""


class StreamError(Protocol):
    """Writes the error event that ends a stream: `serve.api.errors.stream_error`."""

    def __call__(self, error: Exception, kind: str, request_id: str, last: bytes = b"") -> bytes: ...


class Mended:
    """ASGI. Raises a `SwitchboardError` while nothing has been sent; after that an error ends the stream."""

    def __init__(self, app: ASGIApp, stream_error: StreamError) -> None:
        self._app = app
        self._stream_error = stream_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._stream_error)
        try:
            await self._app(scope, receive, answer.send)
        except SwitchboardError:
            raise
        except Exception as error:
            fault = answer.fault or from_exception(scope["path"], error)
            if isinstance(fault, ServiceError):
                logger.exception("the engine's app failed")
            if not answer.sent:
                raise fault from error
            await answer.break_off(fault)
        if answer.fault is not None and not answer.sent:
            raise answer.fault


class _Answer:
    """What the app says to one request, step by step: `send` is the `send` that the app is given."""

    _rules: StreamRules
    """Set once the answer turns out to be a stream."""

    def __init__(self, scope: Scope, send: Send, stream_error: StreamError) -> None:
        self.sent = False
        """Whether anything has reached the client, after which its status cannot change."""
        self.fault: SwitchboardError | None = None
        self._path: str = scope["path"]
        self._request: Json = scope.get(REQUEST, {})
        self._request_id: str = scope.get(REQUEST_ID, "-")
        self._stream_error = stream_error
        self._send = send
        self._step: Callable[[Message], Awaitable[None]] = self._begin
        self._start: Message = {}
        self._chunks: list[bytes] = []
        self._splitter = Splitter(MAX_EVENT_BYTES)
        self._last = b""

    async def send(self, message: Message) -> None:
        await self._step(message)

    async def break_off(self, fault: SwitchboardError) -> None:
        """End what has begun. Only a stream has a way to say so; any other body just ends."""
        if self._step == self._stream:
            await self._end_stream(b"", fault)

    async def _begin(self, message: Message) -> None:
        self._start = message
        if message["status"] >= 400:
            self._step = self._collect_error
        elif self._path in STREAMS and _content_type(message).startswith(b"text/event-stream"):
            self._rules = STREAMS[self._path]
            self._step = self._hold
        elif self._path in MENDS:
            self._step = self._collect
        else:
            self._step = self._pass_on
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        self.sent = True
        await self._send(message)

    async def _ignore(self, message: Message) -> None:
        """The client has its answer, or is to get an error instead of this one."""

    async def _collect_error(self, message: Message) -> None:
        self._chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            self.fault = from_body(self._path, self._start["status"], b"".join(self._chunks))
            self._step = self._ignore

    async def _collect(self, message: Message) -> None:
        self._chunks.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        self._step = self._ignore
        try:
            body = self._mended(b"".join(self._chunks))
        except Aborted:
            self.fault = Unavailable("The model gave this request up.", retry_after_s=1.0)
            return
        length = (b"content-length", str(len(body)).encode())
        others = [header for header in self._start["headers"] if header[0].lower() != b"content-length"]
        await self._pass_on({**self._start, "headers": [*others, length]})
        await self._pass_on({"type": "http.response.body", "body": body})

    def _mended(self, body: bytes) -> bytes:
        try:
            payload = json.loads(body)
        except ValueError:
            return body
        if not isinstance(payload, dict):
            return body
        MENDS[self._path](payload, self._request)
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()

    async def _hold(self, message: Message) -> None:
        """Before the first event that says something: an error here still becomes a status of its own."""
        commits = False
        try:
            for block in self._splitter.feed(message.get("body", b"")):
                event = parse(block)
                if event.data is None:
                    continue
                self._chunks.append(self._rules.mend(self._path, block, event, self._request))
                commits = commits or event.name not in self._rules.opening
        except (SwitchboardError, EventTooLong) as error:
            self._refuse(error)
            return
        more = message.get("more_body", False)
        if commits:
            self._step = self._stream
            await self._pass_on(self._start)
            await self._forward(b"".join(self._chunks), more=more)
        elif not more:
            self._refuse(EngineFailed("The model gave no answer."))

    def _refuse(self, error: Exception) -> None:
        self.fault = _known(error)
        self._step = self._ignore

    async def _stream(self, message: Message) -> None:
        chunk: bytes = message.get("body", b"")
        if self._splitter.empty and chunk.endswith(b"\n\n") and self._rules.passes(chunk):
            self._last = chunk
            await self._send(message)
            return
        mended = b""
        try:
            for block in self._splitter.feed(chunk):
                mended += self._rules.mend(self._path, block, parse(block), self._request)
        except (SwitchboardError, EventTooLong) as error:
            await self._end_stream(mended, _known(error))
            return
        await self._forward(mended, more=message.get("more_body", False))

    async def _forward(self, blocks: bytes, *, more: bool) -> None:
        self._last = blocks or self._last
        if blocks or not more:
            await self._send({"type": "http.response.body", "body": blocks, "more_body": more})

    async def _end_stream(self, blocks: bytes, fault: SwitchboardError) -> None:
        self._step = self._ignore
        last = blocks or self._last
        event = self._stream_error(fault, self._rules.kind, self._request_id, last)
        await self._send({"type": "http.response.body", "body": blocks + event, "more_body": False})


def _known(error: Exception) -> SwitchboardError:
    return error if isinstance(error, SwitchboardError) else EngineFailed("The model failed on this request.")


def _content_type(start: Message) -> bytes:
    for name, value in start.get("headers", ()):
        if name.lower() == b"content-type":
            return bytes(value)
    return b""
