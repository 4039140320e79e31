"""A model behind another OpenAI-compatible server, through a manager's whole HTTP face."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from deployments.manager_app import ManagerApp
from serve.schemas import Json
from tests.deployments.conftest import MakeManager
from tests.fakes import replica as fake
from tests.fakes.http_server import PATIENCE_S, Behaviour, HttpServer, listening
from tests.fakes.replica import COMPLETION, DONE, Gate, event
from tests.fakes.serving import served

KEY = "sk-canary-of-the-operator"
SECRET = "the-cluster-s-own-secret"
CHAT = "/v1/chat/completions"
ROUTER = {"x-switchboard-secret": SECRET, "x-switchboard-model": "far", "authorization": "Bearer of-the-client"}
BODY: Json = {"model": "far", "messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    """The other server."""
    server = HttpServer(fake.answers(COMPLETION))
    async with listening(server):
        yield server


@pytest.fixture
async def app(make: MakeManager, server: HttpServer) -> ManagerApp:
    model = {
        "name": "far",
        "provider": "local",
        "model_id": "llama3:8b",
        "base_url": f"{server.url}/v1",
        "api_key": KEY,
        "default_params": {"temperature": 0.5},
    }
    manager = await make("far", models=[model], adapters=[], bots={})
    return ManagerApp(manager, SECRET, body_bytes=10_000, capacity=10)


@pytest.fixture
async def router(app: ManagerApp) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(app) as url, aiohttp.ClientSession(url, headers=ROUTER) as session:
        yield session


async def test_an_answer_passes(router: aiohttp.ClientSession, server: HttpServer) -> None:
    async with router.post(CHAT, json=BODY) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.json() == COMPLETION
    call = await server.call()
    assert (call.method, call.path) == ("POST", CHAT)
    assert call.json == BODY | {"model": "llama3:8b", "temperature": 0.5}
    assert call.header("authorization") == f"Bearer {KEY}"
    assert not [name for name, _ in call.headers if name.startswith("x-")]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"])
async def test_every_endpoint_is_below_its_base_url(
    router: aiohttp.ClientSession, server: HttpServer, path: str
) -> None:
    async with router.post(path, json=BODY) as answer:
        assert answer.status == 200
    assert (await server.call()).path == path


async def test_a_stream_passes_event_by_event(router: aiohttp.ClientSession, server: HttpServer) -> None:
    server.behave = gate = Gate()
    gate.send(event(0))
    async with router.post(CHAT, json=BODY | {"stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        assert await answer.content.readuntil(b"\n\n") == event(0)
        gate.send(event(1) + DONE)
        gate.end()
        assert await answer.read() == event(1) + DONE


LEAK = {"error": {"message": f"Incorrect API key provided: {KEY[:9]}***. See http://10.0.0.5/keys"}}
FAILURES: dict[str, tuple[Behaviour, int]] = {
    "key refused": (fake.answers(LEAK, 401), 502),
    "key forbidden": (fake.answers(LEAK, 403), 502),
    "moved": (fake.answers_bytes(b"", 302, ("location", "http://169.254.169.254/")), 502),
    "moved for good": (fake.answers_bytes(b"", 308, ("location", "http://169.254.169.254/")), 502),
    "a page": (fake.answers_bytes(b"<html>sk-canary</html>", 200, ("content-type", "text/html")), 502),
    "a page of an error": (fake.answers_bytes(b"<html>sk-canary</html>", 404, ("content-type", "text/html")), 502),
    "failed": (fake.answers(LEAK, 500), 500),
    "its proxy failed": (fake.answers(LEAK, 502), 500),
    "reset": (fake.resets, 500),
    "cut in its head": (fake.cut_at(20), 500),
    "not HTTP": (fake.speaks_no_http, 500),
    "overloaded": (fake.answers(LEAK, 503, ("retry-after", "9")), 503),
    "full": (fake.answers(LEAK, 429, ("retry-after", "9")), 429),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_its_troubles_are_told_in_our_words(
    router: aiohttp.ClientSession, server: HttpServer, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.behave, status = FAILURES[case]
    async with router.post(CHAT, json=BODY) as answer:
        body = await answer.text()
        assert answer.status == status
        assert answer.headers.get("retry-after") == ("9" if status in {429, 503} else None)
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    for secret in ("canary", "10.0.0.5", "169.254", server.url, "llama3"):
        assert secret not in body
    assert "canary" not in caplog.text
    assert len(server.calls) == 1


async def test_what_it_says_of_the_request_passes(router: aiohttp.ClientSession, server: HttpServer) -> None:
    refusal = {"error": {"message": "No such parameter.", "type": "invalid_request_error"}}
    server.behave = fake.answers(refusal, 400)
    async with router.post(CHAT, json=BODY) as answer:
        assert answer.status == 400
        assert await answer.json() == refusal


async def test_a_retry_after_that_is_a_date(router: aiohttp.ClientSession, server: HttpServer) -> None:
    server.behave = fake.answers({}, 503, ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"))
    async with router.post(CHAT, json=BODY) as answer:
        assert answer.headers["retry-after"] == "1"


async def test_nobody_there(router: aiohttp.ClientSession, server: HttpServer) -> None:
    await server.refuse()
    async with router.post(CHAT, json=BODY) as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "127.0.0.1" not in await answer.text()


async def test_a_stream_that_breaks_off_does_not_look_whole(router: aiohttp.ClientSession, server: HttpServer) -> None:
    server.behave = gate = Gate()
    gate.send(event(0))
    async with router.post(CHAT, json=BODY | {"stream": True}) as answer:
        assert await answer.content.readuntil(b"\n\n") == event(0)
        gate.reset()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@pytest.mark.parametrize("events", [0, 2])
async def test_a_client_that_leaves_is_not_answered_on(
    app: ManagerApp, router: aiohttp.ClientSession, server: HttpServer, events: int
) -> None:
    server.behave = fake.stalls_after(events) if events else fake.hangs
    asking = asyncio.create_task(_read(router))
    call = await server.call()
    asking.cancel()
    await asyncio.wait([asking])
    await call.until_gone()
    await asyncio.wait_for(app.idle.wait(), PATIENCE_S)


async def _read(router: aiohttp.ClientSession) -> None:
    async with router.post(CHAT, json=BODY | {"stream": True}) as answer:
        await answer.read()


async def test_it_takes_as_many_at_once_as_the_manager_lets_in(
    app: ManagerApp, router: aiohttp.ClientSession, server: HttpServer
) -> None:
    app.capacity = 200
    server.behave = fake.hangs
    asking = [asyncio.create_task(_read(router)) for _ in range(90)]
    await server.call(89)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
