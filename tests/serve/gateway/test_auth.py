"""Who is let in."""

from __future__ import annotations

import hashlib
import hmac
import logging

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.endpoints import ENDPOINTS
from serve.api.http import Headers
from serve.errors import NotAuthenticated
from serve.gateway.auth import ClientKeys
from tests.serve.gateway.running import CHAT, MESSAGES, Running, Start, message
from tests.serve.gateway.wire import wired

KEY, OTHER = "a-client-key-of-bot-1", "a-client-key-of-bot-2"
KEYS = ClientKeys([hashlib.sha256(key.encode()).hexdigest() for key in (KEY, OTHER)])


def refused(*headers: tuple[bytes, bytes]) -> bool:
    try:
        KEYS.check(Headers(headers))
    except NotAuthenticated:
        return True
    return False


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_known_key_either_way(key: str) -> None:
    assert not refused((b"authorization", f"Bearer {key}".encode()))
    assert not refused((b"Authorization", f"bearer  {key}".encode()))
    assert not refused((b"x-api-key", key.encode()))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY[:-1]}".encode())],
        [(b"authorization", f"Bearer {KEY}x".encode())],
        [(b"authorization", b"Bearer ' OR 1=1 --")],
        [(b"authorization", b"Bearer " + b"x" * 1_000_000)],
        [(b"authorization", "Bearer schlüssel".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}".encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"authorization", f"Bearer {OTHER}".encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", b"wrong")],
        [(b"x-api-key", KEY.encode()), (b"x-api-key", KEY.encode())],
    ],
    ids=lambda headers: repr(headers)[:60],
)
def test_anything_else(headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(*headers)


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"x"]), st.binary())))
def test_wild_headers(headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(*headers)


def test_every_known_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", compare)
    assert not refused((b"x-api-key", KEY.encode()))
    assert refused((b"x-api-key", b"wrong"))
    assert len(compared) == 4  # each key each time, whichever matches
    assert {len(digest) for pair in compared for digest in pair} == {64}


def test_without_keys_everybody_is_let_in() -> None:
    ClientKeys([]).check(Headers([(b"authorization", b"Bearer whatever")]))


# Over HTTP.


@pytest.fixture
async def locked(start: Start) -> Running:
    return await start(auth={"keys": [KEY, OTHER]})


OPEN = {"/health", "/ready"}
PATHS = [endpoint.path.replace("{id}", "sess_1").replace("{id:path}", "demo") for endpoint in ENDPOINTS]
UNKNOWN = ["/", "/docs", "/openapi.json", "/admin/keys", "/v1/load_lora_adapter", "/health/", "//health", "/Health"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_nobody_gets_past_without_a_key(locked: Running, method: str) -> None:
    async with wired(locked.port) as wire:
        for path in (*PATHS, *UNKNOWN):
            if path in OPEN and method == "GET":
                continue
            await wire.ask(path, method=method)
            reply = await wire.reply()
            assert reply.status == 401, path
            if path.startswith(MESSAGES):
                assert reply.json["error"]["type"] == "authentication_error"
            else:
                assert reply.json["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/ready", 503)])
async def test_probes_need_no_key(locked: Running, path: str, status: int) -> None:
    client = await locked.client()
    async with client.get(path) as answer:
        assert answer.status == status


async def test_the_key_is_checked_before_the_body_is_read(locked: Running) -> None:
    async with wired(locked.port) as wire:
        await wire.ask(CHAT, length=1000)
        assert (await wire.reply()).status == 401


async def test_a_refused_key_is_not_repeated(locked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with wired(locked.port) as wire:
        for key in ("sk-canary", "sk-canary' OR 1=1 --", "sk-canary" * 2000, "sk-canary-ü"):
            await wire.ask(CHAT, b"{}", authorization=f"Bearer {key}")
            reply = await wire.reply()
            assert reply.status == 401
            assert b"canary" not in reply.body
    assert "canary" not in caplog.text


async def test_a_host_that_looks_like_a_path_opens_nothing(locked: Running) -> None:
    async with wired(locked.port) as wire:  # CVE-2026-48710
        await wire.ask("/v1/models", method="GET", host="a/health?x=")
        assert (await wire.reply()).status == 401
        await wire.ask("/v1/models?/health", method="GET")
        assert (await wire.reply()).status == 401


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": OTHER}])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_key_never_goes_further(locked: Running, headers: dict[str, str], path: str) -> None:
    replica = await locked.replica()
    client: aiohttp.ClientSession = await locked.client(**headers)
    async with client.post(path, json=message()) as answer:
        assert answer.status == 200
    call = await replica.call()
    assert not any(key in value for _, value in call.headers for key in (KEY, OTHER))
