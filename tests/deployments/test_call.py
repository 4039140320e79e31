from __future__ import annotations

import json

import pytest

from deployments.call import call_json
from serve.api.http import ClientDisconnected, Headers, Receive, Scope, Send, read_body
from serve.translate.vllm import REQUEST
from tests.fakes.engine import EchoApp


async def test_an_app_is_asked_as_a_server_would_be() -> None:
    app = EchoApp()
    answer = await call_json(app, "/v1/chat/completions", {"model": "demo", "text": "ü"})
    assert answer["model"] == "demo"
    assert app.asked == [{"model": "demo", "text": "ü"}]
    scope = app.scopes[0]
    assert (scope["method"], scope["path"], scope[REQUEST]) == ("POST", "/v1/chat/completions", app.asked[0])


async def test_an_app_that_watches_for_its_client_sees_it_stay() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, Headers([]), 1000)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b'{"said": ', body, b"}"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert await call_json(app, "/", {"a": 1}) == {"said": {"a": 1}}


async def test_what_the_app_raises_comes_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnected

    with pytest.raises(ClientDisconnected):
        await call_json(app, "/", json.loads("{}"))
