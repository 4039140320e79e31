"""What a replica is told: which model and adapter, in whose name, and nothing of the client's own."""

from __future__ import annotations

import json

import aiohttp
import pytest

from serve.api.endpoints import ENDPOINTS, Kind
from serve.schemas import AdapterRef, AdapterVersion, Json
from tests.fakes import replica as fake
from tests.serve.gateway.running import CHAT, MESSAGES, SALES, SUPPORT, Running, Start, chat, message
from tests.serve.gateway.wire import wired

BODIES: dict[str, Json] = {
    Kind.CHAT: chat(),
    Kind.COMPLETION: {"model": "demo", "prompt": "Hello"},
    Kind.EMBEDDING: {"model": "demo", "input": "Hello"},
    Kind.RESPONSE: {"model": "demo", "input": "Hello"},
    Kind.MESSAGE: message(),
    Kind.COUNT_TOKENS: chat(),
}


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if one.forwards], ids=lambda endpoint: endpoint.kind)
async def test_every_endpoint_of_a_model_is_forwarded(
    running: Running, client: aiohttp.ClientSession, endpoint: object
) -> None:
    replica = await running.replica()
    path, kind = endpoint.path, endpoint.kind  # type: ignore[attr-defined]
    async with client.post(path, json=BODIES[kind]) as answer:
        assert answer.status == 200
    call = await replica.call()
    assert call.path == path
    assert call.json == BODIES[kind]


@pytest.mark.parametrize(
    ("asked", "adapter", "bot", "shown"),
    [
        ("demo", None, None, "none; reason=not-asked-for"),
        ("demo:support", SUPPORT.address, None, SUPPORT.short),
        (f"demo:sales@{SALES.digest}", SALES.address, None, SALES.short),
        ("support", SUPPORT.address, "support", SUPPORT.short),
        ("sales", SALES.address, "sales", SALES.short),
    ],
)
async def test_the_router_says_what_is_meant(
    running: Running, client: aiohttp.ClientSession, asked: str, adapter: str | None, bot: str | None, shown: str
) -> None:
    replica = await running.replica()
    async with client.post(CHAT, json=chat(asked)) as answer:
        assert answer.status == 200
        assert answer.headers["x-switchboard-adapter"] == shown
    call = await replica.call()
    assert call.header("x-switchboard-secret") == "the-cluster-s-own-secret"
    assert call.header("x-switchboard-model") == "demo"
    assert call.header("x-switchboard-adapter") == adapter
    assert call.header("x-switchboard-bot") == bot
    assert call.json["model"] == asked  # the manager's to replace


async def test_a_clients_headers_end_here(running: Running) -> None:
    replica = await running.replica()
    ours = {"host", "content-length", "content-type", "x-request-id", "x-switchboard-secret", "x-switchboard-model"}
    async with wired(running.port) as wire:
        await wire.ask(
            CHAT,
            json.dumps(chat()).encode(),
            authorization="Bearer sk-client",
            cookie="session=1",
            connection="keep-alive, x-secret-hop",
            keep_alive="timeout=5",
            te="trailers",
            upgrade="h2c",
            proxy_authorization="Basic eA==",
            x_forwarded_for="1.2.3.4",
            x_forwarded_proto="https",
            x_forwarded_host="evil",
            forwarded="for=1.2.3.4",
            x_real_ip="1.2.3.4",
            x_switchboard_adapter="demo:sales@000000000000",
            x_switchboard_bot="sales",
            x_session="1",
            user_agent="OpenAI/Python",
            accept_encoding="gzip",
            content_type="text/plain",
        )
        await wire.write(b"")
        reply = await wire.reply()
        assert reply.status == 200
    call = await replica.call()
    assert {name for name, _ in call.headers} == ours
    assert call.header("content-type") == "application/json"
    assert call.header("host") == replica.url.removeprefix("http://")


async def test_names_with_underscores_are_no_way_around(running: Running) -> None:
    replica = await running.replica()
    body = json.dumps(chat()).encode()
    async with wired(running.port) as wire:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx_switchboard_secret: x\r\nx_request_id: forged\r\n"
        await wire.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert (await wire.reply()).status == 200
    call = await replica.call()
    assert not any("_" in name for name, _ in call.headers)
    assert call.header("x-request-id") != "forged"


async def test_anthropics_own_headers_go_along(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "tools-1"}
    async with client.post(MESSAGES, json=message(), headers=headers) as answer:
        assert answer.status == 200
    call = await replica.call()
    assert call.header("anthropic-version") == "2023-06-01"
    assert call.header("anthropic-beta") == "tools-1"


async def test_a_replicas_headers_end_here_but_for_those_that_mean_something(
    running: Running, client: aiohttp.ClientSession
) -> None:
    replica = await running.replica()
    theirs = {
        "server": "uvicorn",
        "set-cookie": "a=1",
        "x-process-time": "3",
        "content-encoding": "identity",
        "access-control-allow-origin": "*",
        "x-request-id": "theirs",
        "retry-after": "7",
    }
    replica.behave = fake.answers({"error": {}}, 400, *theirs.items())
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 400
        assert theirs.keys() & {name.lower() for name in answer.headers} == {"x-request-id", "retry-after"}
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["x-request-id"].startswith("req_")


async def test_a_redirect_is_not_followed(running: Running, client: aiohttp.ClientSession) -> None:
    replica, other = await running.replica(), await running.replica("other", models=["sleepy"])
    replica.behave = fake.answers_bytes(b"", 307, ("location", other.url + CHAT))
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 502
        assert "location" not in answer.headers
    assert other.calls == []


# Adapters.


async def test_the_replica_that_has_the_adapter_is_preferred(running: Running, client: aiohttp.ClientSession) -> None:
    replicas = {name: await running.replica(name) for name in ("one", "two", "three")}
    for name, replica in replicas.items():
        state = replica.state(adapters=[AdapterVersion(SUPPORT, current=True, since=1.0)])
        resident = frozenset({SUPPORT.address}) if name == "two" else frozenset[str]()
        await running.registry.hears(type(state)(**_fields(state) | {"resident": resident}))
    for _ in range(5):
        async with client.post(CHAT, json=chat("demo:support")) as answer:
            assert answer.headers["x-switchboard-served-by"] == "demo; replica=two"


def _fields(state: object) -> Json:
    from dataclasses import fields

    return {field.name: getattr(state, field.name) for field in fields(state)}  # type: ignore[arg-type]


async def test_the_newest_version_counts_for_requests_from_now_on(
    running: Running, client: aiohttp.ClientSession
) -> None:
    replica = await running.replica()
    newer = AdapterRef("demo", "support", "c" * 12, label="v2")
    versions = [
        AdapterVersion(SUPPORT, current=False, since=1.0),
        AdapterVersion(newer, current=True, since=2.0),
    ]
    await running.registry.hears(replica.state(adapters=versions))
    shown = []
    for asked in ("demo:support", "demo:support@v2", f"demo:support@{SUPPORT.digest}"):
        async with client.post(CHAT, json=chat(asked)) as answer:
            shown.append(answer.headers["x-switchboard-adapter"])
    assert shown == [newer.short, newer.short, SUPPORT.short]


async def test_an_adapter_that_cannot_be_loaded_is_never_replaced_by_the_base(
    running: Running, client: aiohttp.ClientSession
) -> None:
    replica = await running.replica()
    broken = AdapterVersion(SUPPORT, current=True, since=1.0, fault="its weights are cut short")
    await running.registry.hears(replica.state(adapters=[broken]))
    for asked in ("demo:support", "support"):
        async with client.post(CHAT, json=chat(asked)) as answer:
            assert answer.status == 424
            assert "cut short" in (await answer.json())["error"]["message"]
    await running.registry.hears(replica.state())
    async with client.post(CHAT, json=chat("demo:support")) as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    assert replica.calls == []


# A model that sleeps.


@pytest.mark.parametrize("asked", ["sleepy"])
async def test_a_request_wakes_a_model_that_has_no_replica(
    running: Running, client: aiohttp.ClientSession, asked: str
) -> None:
    await running.replica()
    async with client.post(CHAT, json=chat(asked)) as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    assert running.woken == ["sleepy"]
    async with client.post(CHAT, json=chat("nobody")) as answer:
        assert answer.status == 404
    await running.replica("sleeper", models=["sleepy"])
    async with client.post(CHAT, json=chat(asked)) as answer:
        assert answer.status == 200
    assert running.woken == ["sleepy"]


async def test_a_bots_request_wakes_its_model(start: Start) -> None:
    running = await start(bots={"night": {"model": "sleepy"}})
    client = await running.client()
    async with client.post(CHAT, json=chat("night")) as answer:
        assert answer.status == 503
    session = await (await client.post("/v1/sessions", json={"bot_type": "night"})).json()
    async with client.post(CHAT, json=chat("night"), headers={"x-session-id": session["id"]}) as answer:
        assert answer.status == 503
    assert running.woken == ["sleepy", "sleepy"]
