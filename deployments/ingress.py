"""Serve's hook for HTTP middleware (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, see `cluster/serve.env`)."""

from __future__ import annotations

from starlette.middleware import Middleware

from serve.api.http import ASGIApp, Receive, Scope, Send

_SERVES_OWN = "/-/"
"""Paths at which HAProxy asks the replica how it is."""

_app: list[ASGIApp] = []
"""The app that this process answers with, once there is one."""


class PastServe:
    """Gives a request to this process's app at once, past Serve's own handling of it.

    Serve would copy its headers, count and trace it, guard it with a semaphore, log it, and wrap what comes and goes,
    which is not cheap (`docs/benchmarks.md`). The app bounds, counts and logs requests itself and watches for clients
    that leave. When a replica is to go, Serve still waits for what it answers: its HTTP server ends after
    its last response. Source: `ray/serve/_private/replica.py`, `_direct_ingress_asgi`, `_perform_graceful_shutdown`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._serve = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        past = _app and scope["type"] == "http" and not scope["path"].startswith(_SERVES_OWN)
        await (_app[0] if past else self._serve)(scope, receive, send)


def answer_with(app: ASGIApp) -> None:
    """From now on, `app` answers what comes to this process."""
    _app[:] = [app]


def middlewares() -> list[Middleware]:
    return [Middleware(PastServe)]
