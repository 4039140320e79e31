"""One request and its answer, as the gateway's parts pass it on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve.api.http import Headers, Receive, Reply, Scope, Send, UntilDisconnect, read_body, send_reply
from serve.errors import RequestTimedOut
from serve.gateway.clock import Clock
from serve.schemas import Dialect

COMMENT = b": keep-alive\n\n"
"""Clients skip it. WHATWG HTML, server-sent events, section 9.2.6."""
NOBODY = (b"x-switchboard-served-by", b"none")
NOT_ASKED = (NOBODY, (b"x-switchboard-attempts", b"0"))
"""Of an answer that no model was asked for, on an endpoint where one answers."""


class Exchange:
    """A request's ASGI channels with what has been learnt about it so far.

    `model` is the metrics' label: a configured name or `-`, never a client's string. `status` is what the client was
    told, 499 when it went away first, None while nothing was said. `served_by`
    holds the headers that tell which replica was asked last, `sent_last` the piece of the answer that was sent last.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, dialect: Dialect) -> None:
        self.scope = scope
        self.headers = Headers(scope["headers"])
        self.receive = receive
        self._send = send
        self.request_id = request_id
        self.dialect = dialect
        self.endpoint = "-"
        self.model = "-"
        self.status: int | None = None
        self.first_byte_at: float | None = None
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self.served_by: Sequence[tuple[bytes, bytes]] = ()
        self.sent_last = b""

    @property
    def started(self) -> bool:
        return self.status is not None

    async def read(self, limit_bytes: int, within_s: float) -> bytes:
        """The request's body. Raises `RequestTimedOut`, and as `read_body` does."""
        try:
            with Clock(within_s):
                return await read_body(self.receive, self.headers, limit_bytes)
        except TimeoutError:
            raise RequestTimedOut("The request's body did not arrive in time.") from None

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.status = reply.status
        self.first_byte_at = asyncio.get_running_loop().time()
        await send_reply(
            self._send, Reply(reply.status, [*reply.headers, *self.extra_headers, *self.served_by], reply.body)
        )

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Commit to a status; the body follows in pieces."""
        self.status = status
        self.first_byte_at = asyncio.get_running_loop().time()
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.extra_headers, *self.served_by],
            }
        )

    async def body(self, chunk: bytes, *, more: bool = True) -> None:
        self.sent_last = chunk
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def comment(self) -> None:
        """Send what is no piece of the answer, between two events of a stream."""
        await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})

    def until_client_leaves(self) -> UntilDisconnect:
        return UntilDisconnect(self.receive)
