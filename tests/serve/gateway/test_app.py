"""What the gateway refuses, before any replica hears of it, and in whose words."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from serve.api.endpoints import ENDPOINTS, Endpoint
from serve.gateway.state import GatewayState
from serve.schemas import Json
from serve.sessions import SessionManager
from tests.fakes import replica as fake
from tests.fakes.http_server import PATIENCE_S
from tests.fakes.serving import served
from tests.serve.gateway.running import CHAT, MESSAGES, Running, Start, chat, message, sample
from tests.serve.gateway.wire import wired

SMALL = {"limits": {"body_mib": 0.001}}
"""1048 bytes."""
DIALECTS = [CHAT, MESSAGES]


def assert_refused(reply: Json, path: str, kind: str) -> None:
    """In the form of the API that `path` belongs to."""
    if path.startswith(MESSAGES):
        assert reply["type"] == "error"
        assert reply["error"].keys() == {"type", "message"}
        assert reply["request_id"].startswith("req_")
    else:
        assert reply.keys() == {"error"}
        assert reply["error"].keys() == {"message", "type", "param", "code"}
    assert reply["error"]["type"] == kind


# The body.


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_body_that_is_declared_too_long_is_not_read(start: Start, path: str) -> None:
    running = await start(**SMALL)
    async with wired(running.port) as wire:
        await wire.ask(path, length=5000)
        reply = await wire.reply()
        assert reply.status == 413
        assert_refused(reply.json, path, "invalid_request_error" if path == CHAT else "request_too_large")
        # The connection stays good for a client that goes on to send what it had announced.
        await wire.write(b"x" * 5000)
        await wire.ask("/health", method="GET")
        assert (await wire.reply()).status == 200


async def test_a_body_that_turns_out_too_long(start: Start) -> None:
    running = await start(**SMALL)
    async with wired(running.port) as wire:
        await wire.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await wire.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await wire.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert (await wire.reply()).status == 413
        await wire.write(b"0\r\n\r\n")
        await wire.ask("/health", method="GET")
        assert (await wire.reply()).status == 200


async def test_the_largest_body_that_is_allowed(start: Start) -> None:
    running = await start(**SMALL)
    client = await running.client()
    replica = await running.replica()
    body = json.dumps(chat()).encode().ljust(1048)
    async with client.post(CHAT, data=body) as answer:
        assert answer.status == 200
    assert (await replica.call()).body == body
    async with client.post(CHAT, data=body + b" ") as answer:
        assert answer.status == 413


async def test_a_body_that_does_not_arrive(start: Start) -> None:
    running = await start(timeouts={"body_s": 0.05})
    async with wired(running.port) as wire:
        await wire.ask(CHAT, b"{", length=100)
        reply = await wire.reply()
    assert reply.status == 408
    assert reply.json["error"]["code"] == "request_timeout"
    assert sample("switchboard_in_flight") == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_a_compressed_body(client: aiohttp.ClientSession, encoding: str) -> None:
    headers = {"content-encoding": encoding}
    async with client.post(CHAT, data=b"\x1f\x8b", headers=headers) as answer:
        assert answer.status == 415
        assert answer.headers["accept-encoding"] == "identity"
        assert_refused(await answer.json(), CHAT, "invalid_request_error")


WILD = {
    "empty": b"",
    "truncated": b'{"model": "demo", "messages": [',
    "array": b"[]",
    "null": b"null",
    "not UTF-8": b'{"model": "\xff"}',
    "nested too deeply": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number with too many digits": b'{"model": "demo", "seed": ' + b"9" * 100_000 + b"}",
    "not a number": b'{"model": "demo", "temperature": NaN}',
    "two values": b"{}{}",
}


@pytest.mark.parametrize("case", WILD)
@pytest.mark.parametrize("path", DIALECTS)
async def test_what_is_no_json_object(client: aiohttp.ClientSession, case: str, path: str) -> None:
    async with client.post(path, data=WILD[case]) as answer:
        assert answer.status == 400
        assert_refused(await answer.json(), path, "invalid_request_error")


# Its fields.


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "x" * 1_000_000}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ({"api_base": "http://169.254.169.254"}, "api_base"),
        ({"base_url": "http://localhost"}, "base_url"),
        ({"api_key": "sk-1"}, "api_key"),
        ({"extra_headers": {}}, "extra_headers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", DIALECTS)
async def test_the_field_at_fault_is_named(
    running: Running, client: aiohttp.ClientSession, fields: dict[str, Any], param: str, path: str
) -> None:
    replica = await running.replica()
    async with client.post(path, json=message() | fields) as answer:
        reply = await answer.read()
        assert answer.status == 400
        assert len(reply) < 1000
    told = json.loads(reply)
    assert_refused(told, path, "invalid_request_error")
    assert param in told["error"]["message"]
    if path == CHAT:
        assert told["error"]["param"] == param
    assert replica.calls == []


async def test_a_message_without_its_length(client: aiohttp.ClientSession) -> None:
    async with client.post(MESSAGES, json=chat()) as answer:
        assert answer.status == 400
        reply = await answer.json()
    assert_refused(reply, MESSAGES, "invalid_request_error")
    assert "max_tokens" in reply["error"]["message"]


@pytest.mark.parametrize("name", ["gpt-5", "demo:nobody", "demo:support@000000000000", "demo:support@v9", "a b", ":"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DIALECTS)
async def test_what_does_not_exist(
    running: Running, client: aiohttp.ClientSession, name: str, stream: bool, path: str
) -> None:
    replica = await running.replica()
    async with client.post(path, json=message(name, stream=stream)) as answer:
        reply = await answer.json()
        assert answer.status == 404
    assert_refused(reply, path, "invalid_request_error" if path == CHAT else "not_found_error")
    if path == CHAT:
        assert reply["error"]["code"] in {"model_not_found", "adapter_not_found"}
    for secret in ("sleepy", "sales", "aaaaaaaaaaaa"):
        assert secret not in reply["error"]["message"]
    assert replica.calls == []


# The route.


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", MESSAGES, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/demo", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PATCH", "/v1/sessions/sess_1", "GET, HEAD, DELETE"),
        ("OPTIONS", "/v1/messages/count_tokens", "POST"),
    ],
)
async def test_a_method_that_the_path_does_not_take(
    client: aiohttp.ClientSession, method: str, path: str, allow: str
) -> None:
    async with client.request(method, path) as answer:
        assert answer.status == 405
        assert answer.headers["allow"] == allow
        assert_refused(await answer.json(), path, "invalid_request_error")


@pytest.mark.parametrize("path", ["/", "/docs", "/v1", "/v1/chat", "/v1/messages/batches", "/v1/load_lora_adapter"])
async def test_a_path_that_does_not_exist(client: aiohttp.ClientSession, path: str) -> None:
    async with client.post(path, json={}) as answer:
        assert answer.status == 404
        anthropic = path.startswith(MESSAGES)
        assert_refused(await answer.json(), path, "not_found_error" if anthropic else "invalid_request_error")


# What is told, and what is not.

HOSTILE = "gpt\r\nrequest=forged status=200\x1b[31m\0\u202e"


async def test_a_clients_text_cannot_forge_a_log_line(
    client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="serve")
    async with client.post(CHAT, json=chat(HOSTILE)) as answer:
        assert answer.status == 404
        told = (await answer.json())["error"]["message"]
    async with client.post("/v1/x%0d%0arequest=forged%1b[31m", json={}) as answer:
        assert answer.status == 404
        path = (await answer.json())["error"]["message"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    for text in (*lines, told, path):
        assert text.isprintable(), text
        assert len(text) < 300


async def test_what_goes_wrong_inside_stays_inside(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("/srv/secret/path: token sk-canary at 10.0.0.1:8000")

    monkeypatch.setattr("serve.gateway.forwarding.plan", fails)
    async with client.post(CHAT, json=chat(), headers={"x-request-id": "mine-1"}) as answer:
        assert answer.status == 500
        body = await answer.text()
        assert answer.headers["x-request-id"] == "mine-1"
    for part in ("secret", "canary", "10.0.0.1", "OSError", "Traceback"):
        assert part not in body
    assert "request=mine-1" in caplog.text
    assert "sk-canary" in caplog.text  # the log is where the reason is


# Requests have ids.


async def test_every_answer_has_the_requests_id(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    for number, (path, body) in enumerate([(CHAT, chat()), (CHAT, chat("nobody")), (CHAT, []), ("/nowhere", {})]):
        async with client.post(path, json=body, headers={"x-request-id": f"mine-{number}"}) as answer:
            assert answer.headers.getall("x-request-id") == [f"mine-{number}"]
    assert (await replica.call()).header("x-request-id") == "mine-0"
    async with client.post(CHAT, json=chat(), headers={"x-request-id": "no id; at all"}) as answer:
        given = answer.headers["x-request-id"]
    assert given.startswith("req_")
    assert (await replica.call(1)).header("x-request-id") == given


async def test_an_anthropic_client_finds_the_id_where_that_api_has_it(
    running: Running, client: aiohttp.ClientSession
) -> None:
    await running.replica()
    for body in (message(), message("nobody")):
        async with client.post(MESSAGES, json=body, headers={"x-request-id": "mine"}) as answer:
            assert answer.headers.getall("request-id") == ["mine"]


async def test_where_the_server_around_it_adds_the_id(start: Start) -> None:
    running = await start(says_request_id=False)
    client = await running.client()
    await running.replica()
    for body in (chat(), chat("nobody")):
        async with client.post(CHAT, json=body, headers={"x-request-id": "mine"}) as answer:
            assert "x-request-id" not in answer.headers


# Who answered: nobody.


def assert_nobody_was_asked(headers: Mapping[str, str]) -> None:
    assert (headers.get("x-switchboard-served-by"), headers.get("x-switchboard-attempts")) == ("none", "0")


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if one.forwards], ids=lambda endpoint: endpoint.kind)
@pytest.mark.parametrize(
    ("status", "method", "body"),
    [
        (400, "POST", b"[]"),
        (400, "POST", b'{"model": 7}'),
        (404, "POST", json.dumps(message("nobody") | {"prompt": "x", "input": "x"}).encode()),
        (405, "GET", b""),
        (413, "POST", b" " * 2000),
        (503, "POST", json.dumps(message() | {"prompt": "x", "input": "x"}).encode()),
    ],
)
async def test_a_refusal_says_that_nobody_was_asked(
    start: Start, endpoint: Endpoint, status: int, method: str, body: bytes
) -> None:
    running = await start(**SMALL)
    client = await running.client()
    async with client.request(method, endpoint.path, data=body) as answer:
        assert answer.status == status
        assert_nobody_was_asked(answer.headers)


async def test_so_do_a_wrong_key_a_missing_host_and_a_fault_of_ours(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = await start(auth={"keys": ["a-client-key-of-bot-1"]})
    async with wired(locked.port) as wire:
        await wire.ask(CHAT, authorization="Bearer wrong")
        refused = await wire.reply()
        await wire.write(f"POST {CHAT} HTTP/1.1\r\ncontent-length: 0\r\n\r\n".encode())
        hostless = await wire.reply()
        monkeypatch.delattr("serve.gateway.forwarding.plan")
        await wire.ask(CHAT, json.dumps(chat()).encode(), authorization="Bearer a-client-key-of-bot-1")
        broken = await wire.reply()
    assert [refused.status, hostless.status, broken.status] == [401, 400, 500]
    for reply in (refused, hostless, broken):
        assert_nobody_was_asked(reply.headers)


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nowhere", "/v1/sessions/sess_1"])
async def test_where_no_model_answers_nothing_is_said_of_one(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert [name for name in answer.headers if name.lower().startswith("x-switchboard")] == []


# How much at once.


async def test_one_too_many_is_refused_at_once_and_the_next_taken_again(start: Start) -> None:
    running = await start(limits={"max_in_flight": 3})
    client = await running.client()
    replica = await running.replica()
    gates = [fake.Gate() for _ in range(3)]
    for gate in gates:
        gate.send(b"data: 1\n\n")
    replica.behave = fake.in_turn(*gates)
    held = [await client.post(CHAT, json=chat(stream=True)) for _ in range(3)]
    for path in DIALECTS:
        async with client.post(path, json=message()) as answer:
            assert answer.status == 429
            assert answer.headers["retry-after"] == "1"
            assert_refused(await answer.json(), path, "rate_limit_error")
            assert_nobody_was_asked(answer.headers)
    async with client.get("/v1/models") as answer:
        assert answer.status == 200
    assert len(replica.calls) == 3
    for gate in gates:
        gate.end()
    for answer in held:
        assert await answer.read() == b"data: 1\n\n"
    replica.behave = fake.streams(1)
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert answer.status == 200


# The server's own life.


async def test_it_is_well_until_one_of_its_own_tasks_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    (await start()).gateway.check_health()
    ended = asyncio.Event()

    async def fails(*_: object) -> None:
        ended.set()
        raise KeyError("not foreseen")

    monkeypatch.setattr(GatewayState, "follow", fails)
    running = await start()
    await ended.wait()
    with pytest.raises(RuntimeError, match="has ended") as caught:
        running.gateway.check_health()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_every_expired_session_is_purged_however_many(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted, done = [2, 2, 1], asyncio.Event()

    async def purge(sessions: SessionManager, limit: int) -> int:
        done.set() if len(deleted) == 1 else None
        return deleted.pop(0)

    monkeypatch.setattr("serve.gateway.app.PURGE_BATCH", 2)
    monkeypatch.setattr(SessionManager, "purge_expired", purge)
    await start()
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    assert deleted == []


async def test_the_lifespan_starts_and_stops_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = await start()
    followed: list[str] = []
    follow = GatewayState.follow

    async def recorded(state: GatewayState, source: Any) -> None:
        followed.append("begun")
        try:
            await follow(state, source)
        finally:
            followed.append("ended")

    monkeypatch.setattr(GatewayState, "follow", recorded)
    gateway = type(running.gateway)(running.gateway.state.settings, running.registry, "router-2", running.woken.append)
    async with served(gateway, lifespan=True) as url, aiohttp.ClientSession(url) as client, client.get("/health"):
        assert followed == ["begun"]
    assert followed == ["begun", "ended"]
