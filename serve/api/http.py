"""HTTP as ASGI gives it: reading a request's body within bounds, and sending a whole reply.

Written against raw ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html): on the path of every request
a framework's request and response objects cost more than the work itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import uuid4

from serve.errors import BodyTooLarge, UnsupportedEncoding

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

MODEL_HEADERS = (b"anthropic-version", b"anthropic-beta")
"""The client's headers that mean something to a model's app. All others end at the router."""

LISTENS_AFTER_S = 0.05
"""How soon after a request has come its client's leaving is noticed."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientDisconnected(Exception):
    """The client went away before it had its answer. There is nobody left to tell."""


class Headers:
    """The headers of an ASGI scope, by name without regard to case.

    Names are asked for in lower case. Values are bytes, since HTTP gives them no encoding.
    """

    __slots__ = ("_all", "_first")

    def __init__(self, raw: RawHeaders) -> None:
        self._all = [key.lower() for key, _ in raw]
        self._first = {key.lower(): value for key, value in reversed(raw)}

    def get(self, name: bytes) -> bytes | None:
        """The first value of the header; None where it is absent."""
        return self._first.get(name)

    def count(self, name: bytes) -> int:
        """How often the header was sent."""
        return self._all.count(name)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response. `headers` holds everything but Content-Length."""

    status: int
    headers: RawHeaders
    body: bytes


def json_reply(status: int, payload: object, headers: RawHeaders = ()) -> Reply:
    """`payload` as a JSON reply."""
    body = json.dumps(payload, separators=(",", ":")).encode()
    return Reply(status, [(b"content-type", b"application/json"), *headers], body)


async def send_reply(send: Send, reply: Reply) -> None:
    """Send `reply` as the whole response."""
    length = (b"content-length", str(len(reply.body)).encode())
    await send(
        {"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, length]},
    )
    await send({"type": "http.response.body", "body": reply.body})


async def read_body(receive: Receive, headers: Headers, limit_bytes: int) -> bytes:
    """The whole request body.

    Nothing is read of a body that declares itself too large, and at most one chunk past the limit of one that
    does not. How long it may take is the caller's to bound.

    Raises: UnsupportedEncoding, BodyTooLarge, ClientDisconnected.
    """
    if (headers.get(b"content-encoding") or b"identity").strip().lower() != b"identity":
        # A compressed body has no bound on its size until it has been unpacked.
        raise UnsupportedEncoding("The request body must not be compressed.")
    too_large = BodyTooLarge(f"The request body is larger than {limit_bytes} bytes.")
    if _declared_length(headers) > limit_bytes:
        raise too_large

    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


class UntilDisconnect:
    """Runs a block; if the client goes away meanwhile, cancels it and raises `ClientDisconnected`.

        with UntilDisconnect(receive):
            ...

    To be entered once the request's body is read: the next thing that `receive` can say is goodbye. Nobody listens in
    the first `LISTENS_AFTER_S`, for a task costs more than many an answer takes.
    """

    _task: asyncio.Task[object]
    _timer: asyncio.TimerHandle

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # only tasks answer requests
        self._task = task
        self._timer = task.get_loop().call_later(LISTENS_AFTER_S, self._start_listening)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        # Only our own cancellation becomes a disconnect; one from outside (shutdown) goes on outwards.
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientDisconnected from None

    def _start_listening(self) -> None:
        self._listener = self._task.get_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


def _declared_length(headers: Headers) -> float:
    """Content-Length, 0 where it is absent or no number (such a one is the HTTP server's to refuse)."""
    declared = (headers.get(b"content-length") or b"").strip().lstrip(b"0")
    if not declared.isdigit():
        return 0
    return int(declared) if len(declared) < 20 else float("inf")


def clean_request_id(raw: bytes | None) -> str:
    """The caller's own request id where it is short and plain, else a new one."""
    if raw is not None and _REQUEST_ID.fullmatch(raw):
        return raw.decode("ascii")
    return f"req_{uuid4().hex}"
