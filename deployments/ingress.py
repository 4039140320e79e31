"""Serve's hook for HTTP middleware (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, see `cluster/serve.env`)."""

from __future__ import annotations

from starlette.middleware import Middleware

from serve.api.http import ASGIApp, Receive, Scope, Send


class ReadsItsOwnRequests:
    """Tells Serve's ingress replica that the app watches for the client's leaving itself.

    Serve would otherwise read every body to its end, however large, to learn whether the client has left; and it
    would do so in two more tasks for each request. Source: `ray/serve/_private/replica.py`, `_direct_ingress_asgi`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], (b"x-request-disconnect-disabled", b"?1")]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    return [Middleware(ReadsItsOwnRequests)]
