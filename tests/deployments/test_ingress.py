from __future__ import annotations

from collections.abc import Iterator

import pytest

from deployments import ingress
from serve.api.http import ASGIApp, Message, Receive, Scope, Send

REQUEST: Scope = {"type": "http", "path": "/v1/models"}


class App:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)


@pytest.fixture
def gateway() -> Iterator[App]:
    app = App()
    ingress.answer_with(app)
    yield app
    ingress._app.clear()


async def ask(serve: ASGIApp, scope: Scope) -> None:
    async def receive() -> Message:
        raise AssertionError("the body is the app's to read")

    async def send(message: Message) -> None:
        raise AssertionError

    (middleware,) = ingress.middlewares()
    await middleware.cls(serve, *middleware.args, **middleware.kwargs)(scope, receive, send)


async def test_the_gateway_answers_past_serve(gateway: App) -> None:
    serve = App()
    await ask(serve, REQUEST)
    assert (gateway.scopes, serve.scopes) == ([REQUEST], [])


@pytest.mark.parametrize("scope", [{"type": "http", "path": "/-/healthz"}, {"type": "lifespan"}])
async def test_serve_answers_what_is_its_own(gateway: App, scope: Scope) -> None:
    serve = App()
    await ask(serve, scope)
    assert (gateway.scopes, serve.scopes) == ([], [scope])


async def test_a_process_without_a_gateway_leaves_all_to_serve() -> None:
    serve = App()
    await ask(serve, REQUEST)
    assert serve.scopes == [REQUEST]
