from __future__ import annotations

from deployments.ingress import middlewares
from serve.api.http import Headers, Message, Receive, Scope, Send


async def seen_by_the_app(scope: Scope) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError("the body is the app's to read")

    async def send(message: Message) -> None:
        raise AssertionError

    (middleware,) = middlewares()
    await middleware.cls(app, *middleware.args, **middleware.kwargs)(scope, receive, send)
    return seen[0]


async def test_serve_is_told_to_leave_the_body_alone() -> None:
    scope = await seen_by_the_app({"type": "http", "headers": [(b"host", b"x")]})
    assert Headers(scope["headers"]).get(b"x-request-disconnect-disabled") == b"?1"
    assert Headers(scope["headers"]).get(b"host") == b"x"


async def test_what_is_no_request_passes() -> None:
    assert await seen_by_the_app({"type": "lifespan"}) == {"type": "lifespan"}
