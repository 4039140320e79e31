"""A manager's HTTP face, as routers see it: a real server and the real adapters around an engine without a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from deployments.manager_app import ManagerApp
from deployments.replica_server import ReplicaServer
from serve.api.http import Receive, Scope, Send
from serve.schemas import Json
from tests.deployments.conftest import Manager
from tests.fakes.engine import FakeEngine, Held
from tests.fakes.http_server import PATIENCE_S
from tests.fakes.serving import served

SECRET = "the-cluster-s-own-secret"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ROUTER = {"x-switchboard-secret": SECRET, "x-switchboard-model": "demo", "x-request-id": "req_1"}


@pytest.fixture
async def engine(manager: Manager) -> FakeEngine:
    await manager.get_model("demo")
    return manager.engines["demo"]


@pytest.fixture
async def app(manager: Manager, engine: FakeEngine) -> ManagerApp:
    return ManagerApp(manager, SECRET, body_bytes=10_000, capacity=2)


@pytest.fixture
async def router(app: ManagerApp) -> AsyncIterator[aiohttp.ClientSession]:
    """A router's connections to it."""
    async with served(app) as url, aiohttp.ClientSession(url, headers=ROUTER) as session:
        yield session


def chat(**fields: Any) -> Json:
    return {"model": "whatever", "messages": [{"role": "user", "content": "Hello?"}]} | fields


# Who may call.


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "ü"])
@pytest.mark.parametrize("path", [CHAT, "/metrics", "/v1/models", "/nowhere"])
async def test_only_the_clusters_own(app: ManagerApp, engine: FakeEngine, secret: str | None, path: str) -> None:
    headers = {} if secret is None else {"x-switchboard-secret": secret}
    async with served(app) as url, aiohttp.ClientSession(url) as session:
        for method in ("GET", "POST"):
            async with session.request(method, path, json=chat(), headers=headers) as answer:
                assert answer.status == 403
                assert SECRET not in await answer.text()
    assert engine.app.asked == []


def test_an_empty_secret_is_no_secret(manager: Manager) -> None:
    with pytest.raises(ValueError, match="secret"):
        ManagerApp(manager, "", body_bytes=10_000)


# What the model is asked.


async def test_a_request_reaches_the_model_with_its_defaults(router: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async with router.post(CHAT, json=chat(seed=1)) as answer:
        assert answer.status == 200
        assert (await answer.json())["model"] == "demo"
    assert engine.app.asked == [chat(model="demo", seed=1, temperature=0.2, max_tokens=64)]


async def test_the_bot_comes_before_the_model_and_the_request_before_both(
    router: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    bot = {"x-switchboard-bot": "support"}
    async with router.post(CHAT, json=chat(), headers=bot), router.post(CHAT, json=chat(temperature=0), headers=bot):
        pass
    first, second = engine.app.asked
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.7, 0.9, 64)
    assert (second["temperature"], second["top_p"], second["max_tokens"]) == (0, 0.9, 64)


@pytest.mark.parametrize(
    ("path", "body", "added"),
    [
        ("/v1/responses", {"input": "x"}, {"temperature": 0.2, "max_output_tokens": 64}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 5}, {"temperature": 0.2}),
        ("/v1/completions", {"prompt": "x"}, {"temperature": 0.2, "max_tokens": 64}),
        (CHAT, {"messages": [], "max_completion_tokens": 5}, {"temperature": 0.2}),
        (MESSAGES, {"messages": [], "max_tokens": 5}, {"temperature": 0.2}),
        ("/v1/embeddings", {"input": "x"}, {}),
        ("/v1/messages/count_tokens", {"messages": []}, {}),
    ],
)
async def test_each_endpoint_gets_the_defaults_that_it_takes(
    router: aiohttp.ClientSession, engine: FakeEngine, path: str, body: Json, added: Json
) -> None:
    async with router.post(path, json=body) as answer:
        assert answer.status == 200
    assert engine.app.asked == [body | added | {"model": "demo"}]
    assert engine.app.scopes[0]["path"] == path


@pytest.mark.parametrize("name", ["model_name", "self", "bot_type", "endpoint", "kwargs"])
async def test_no_field_of_a_request_is_mistaken_for_an_argument(
    router: aiohttp.ClientSession, engine: FakeEngine, name: str
) -> None:
    async with router.post(CHAT, json=chat(**{name: "sales"})) as answer:
        assert answer.status == 200
    assert engine.app.asked[0]["model"] == "demo"
    assert engine.app.asked[0]["temperature"] == 0.2


async def test_the_models_app_sees_nothing_of_the_hop(router: aiohttp.ClientSession, engine: FakeEngine) -> None:
    headers = {"x-switchboard-bot": "support", "x-request-disconnect-disabled": "?1", "cookie": "a=1"}
    async with router.post(CHAT, json=chat(), headers=headers) as answer:
        assert answer.status == 200
    assert {name for name, _ in engine.app.scopes[0]["headers"]} == {b"host", b"content-type", b"content-length"}


# Adapters.


async def test_the_adapter_is_in_the_engine_while_the_model_answers(
    router: aiohttp.ClientSession, engine: FakeEngine, manager: Manager
) -> None:
    refs = [manager.adapter_manager.resolve("demo", name) for name in ("support", "sales")]
    for ref in (*refs, refs[0]):
        async with router.post(CHAT, json=chat(), headers={"x-switchboard-adapter": ref.address}) as answer:
            assert (await answer.json())["model"] == ref.address
    assert engine.loads == [ref.address for ref in refs]
    assert [body["model"] for body in engine.app.asked] == [refs[0].address, refs[1].address, refs[0].address]


async def test_one_that_is_in_use_is_not_evicted(manager: Manager, engine: FakeEngine) -> None:
    support, sales = (manager.adapter_manager.resolve("demo", name) for name in ("support", "sales"))
    engine.app.behave = held = Held()
    app = ManagerApp(manager, SECRET, body_bytes=10_000, capacity=3)
    async with served(app) as url, aiohttp.ClientSession(url, headers=ROUTER) as router:
        using = asyncio.create_task(_post(router, support.address))
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        engine.app.behave = None
        assert await _post(router, sales.address) == 200
        assert engine.weights.keys() == {support.address, sales.address}
        held.release.set()
        assert await using == 200


async def _post(router: aiohttp.ClientSession, adapter: str | None = None, path: str = CHAT) -> int:
    headers = {"x-switchboard-adapter": adapter} if adapter else {}
    async with router.post(path, json=chat(), headers=headers) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize(
    "address", ["demo:nobody@000000000000", "demo:support@000000000000", "nonsense", ":@", "other:x@0"]
)
async def test_an_adapter_that_is_not_there_is_never_replaced_by_the_base(
    router: aiohttp.ClientSession, engine: FakeEngine, address: str
) -> None:
    assert await _post(router, address) in {404, 503}
    assert engine.app.asked == []


# What is refused.


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("poison", [{"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}])
async def test_what_ends_an_engine_does_not_reach_it(
    router: aiohttp.ClientSession, engine: FakeEngine, path: str, poison: Json
) -> None:
    async with router.post(path, json=chat(**poison)) as answer:
        assert answer.status == 400
        told = (await answer.json())["error"]
    assert told["type"] == "invalid_request_error"
    assert "log-probabilities of the prompt" in told["message"]
    assert engine.app.asked == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b'{"x": "' + b"x" * 10_000 + b'"}', 413)],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_body_that_no_router_would_pass(
    router: aiohttp.ClientSession, engine: FakeEngine, body: bytes, status: int, path: str
) -> None:
    async with router.post(path, data=body) as answer:
        assert answer.status == status
        told = await answer.json()
    assert (told["request_id"] == "req_1") if path == MESSAGES else (told.keys() == {"error"})
    assert engine.app.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/v1/unload_lora_adapter", 404),
        ("POST", "/tokenize", 404),
        ("GET", "/v1/models", 404),
        ("GET", "/docs", 404),
        ("GET", CHAT, 405),
        ("POST", "/metrics", 405),
    ],
)
async def test_only_the_endpoints_of_a_model_lead_to_it(
    router: aiohttp.ClientSession, engine: FakeEngine, method: str, path: str, status: int
) -> None:
    async with router.request(method, path, json=chat()) as answer:
        assert answer.status == status
    assert engine.app.asked == []


async def test_a_router_that_names_no_model_or_another(app: ManagerApp, engine: FakeEngine) -> None:
    async with served(app) as url, aiohttp.ClientSession(url, headers={"x-switchboard-secret": SECRET}) as router:
        assert await _post(router) == 400
        async with router.post(CHAT, json=chat(), headers={"x-switchboard-model": "other"}) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"
    assert engine.app.asked == []


@pytest.mark.parametrize(("path", "kind"), [(CHAT, "rate_limit_error"), (MESSAGES, "rate_limit_error")])
async def test_one_too_many(
    app: ManagerApp, router: aiohttp.ClientSession, engine: FakeEngine, path: str, kind: str
) -> None:
    engine.app.behave = held = Held()
    using = [asyncio.create_task(_post(router)) for _ in range(2)]
    while app.in_flight < 2:  # noqa: ASYNC110  (until both have arrived)
        await asyncio.sleep(0)
    async with router.post(path, json=chat()) as answer:
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"
        assert (await answer.json())["error"]["type"] == kind
    assert REGISTRY.get_sample_value("switchboard_manager_in_flight") == 2
    app.capacity = 3
    third = asyncio.create_task(_post(router))
    held.release.set()
    assert await asyncio.gather(*using, third) == [200] * 3
    assert app.in_flight == 0
    assert REGISTRY.get_sample_value("switchboard_manager_in_flight") == 0


async def test_a_replica_that_is_to_go_finishes_what_it_has(
    app: ManagerApp, router: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    assert app.idle.is_set()
    engine.app.behave = held = Held()
    using = asyncio.create_task(_post(router))
    await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
    app.draining = True
    for path in (CHAT, MESSAGES):
        async with router.post(path, json=chat()) as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
    assert not app.idle.is_set()
    held.release.set()
    assert await using == 200
    assert app.idle.is_set()


# What goes wrong.


async def test_a_router_that_leaves_is_noticed_by_the_model(app: ManagerApp, engine: FakeEngine) -> None:
    engine.app.behave = held = Held()
    async with served(app) as url:
        async with aiohttp.ClientSession(url, headers=ROUTER) as router:
            using = asyncio.create_task(_post(router))
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            using.cancel()
            await asyncio.wait([using])
        await asyncio.wait_for(held.left.wait(), PATIENCE_S)
        await asyncio.wait_for(app.idle.wait(), PATIENCE_S)
    assert app.in_flight == 0


async def test_each_model_of_a_manager_has_a_bound_of_its_own(app: ManagerApp, router: aiohttp.ClientSession) -> None:
    app.limit(10_000, {"demo": 0, "other": 2})
    assert app.capacity == 2
    async with router.post(CHAT, json=chat()) as answer:
        assert (answer.status, answer.headers["x-switchboard-error"]) == (429, "at_capacity")
    app.limit(10_000, {"demo": 1, "other": 2})
    async with router.post(CHAT, json=chat()) as answer:
        assert answer.status == 200


async def test_the_bound_of_a_body_may_change(app: ManagerApp, router: aiohttp.ClientSession) -> None:
    for body_bytes, status in ((10, 413), (10_000, 200)):
        app.limit(body_bytes, {"demo": 1})
        async with router.post(CHAT, json=chat()) as answer:
            assert answer.status == status


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_what_goes_wrong_inside_stays_inside(
    router: aiohttp.ClientSession, engine: FakeEngine, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("/srv/secret: token sk-canary")

    engine.app.behave = fails
    async with router.post(path, json=chat()) as answer:
        assert answer.status == 500
        assert answer.content_type == "application/json"
        told = await answer.text()
    assert "canary" not in told
    assert "secret" not in told
    # vLLM's own failures come in our words, and are not worth another try.
    assert answer.headers["x-should-retry"] == "false"
    assert "engine's app failed" in caplog.text


async def test_a_fault_of_our_own_is_told_in_the_apis_form(
    router: aiohttp.ClientSession, manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("canary")

    monkeypatch.setattr(manager, "prepare_inference_params", fails)
    async with router.post(CHAT, json=chat()) as answer:
        assert answer.status == 500
        assert "canary" not in await answer.text()
        assert (await answer.json())["error"]["code"] == "internal_error"
    assert "request=req_1 failed" in caplog.text


async def test_a_stream_that_fails_in_the_middle_is_ended_with_an_error(
    router: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    chunk = json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]})

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": f"data: {chunk}\n\n".encode(), "more_body": True})
        raise RuntimeError("canary")

    engine.app.behave = fails
    async with router.post(CHAT, json=chat(stream=True)) as answer:
        assert answer.status == 200
        first, error, done, end = (await answer.read()).split(b"\n\n")
    assert first.startswith(b"data: {")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "engine_error"
    assert (done, end) == (b"data: [DONE]", b"")


# The replica's own page, and its server.


async def test_metrics_can_be_read(router: aiohttp.ClientSession) -> None:
    async with router.get("/metrics") as answer:
        assert answer.status == 200
        families = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert "switchboard_manager_in_flight" in families


async def test_the_replicas_server_has_an_address_of_its_own(app: ManagerApp) -> None:
    server = ReplicaServer(app)
    url = server.start("127.0.0.1")
    assert url.startswith("http://127.0.0.1:")
    async with aiohttp.ClientSession(url, headers=ROUTER) as router:
        assert await _post(router) == 200
    await server.stop()
    async with aiohttp.ClientSession(url, headers=ROUTER) as router:
        with pytest.raises(aiohttp.ClientConnectorError):
            await _post(router)
