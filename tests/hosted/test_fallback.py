"""Another model in the place of one that cannot answer: when, how often, for how long, and what the client is told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import aiohttp
import pytest

from serve.schemas import Load, ReplicaPhase, ReplicaState
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import Behaviour, Call
from tests.fakes.vendors import OVERLOADED, REFUSED_KEY, TEXT
from tests.hosted.asking import CHAT, MESSAGES, PATHS, ask, body
from tests.hosted.conftest import Hosted, StartHosted


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_may_bring_its_own_fallbacks(hosted: Hosted, client: aiohttp.ClientSession, path: str) -> None:
    hosted.vendors["gpt"].behave = OVERLOADED
    told = await ask(client, path, body(path, "gpt", fallbacks=["claude", "spare"]))
    assert told.text(path) == TEXT
    assert told.headers["x-switchboard-served-by"].startswith("claude;")
    assert told.headers["x-switchboard-fallback-reason"] == "gpt=provider_overloaded"
    assert "fallbacks" not in (await hosted.vendors["claude"].call()).json


@pytest.mark.parametrize(
    ("fallbacks", "status", "where"),
    [
        ("claude", 400, "fallbacks"),
        ([1], 400, "fallbacks"),
        (["x"] * 9, 400, "fallbacks"),
        (["nobody"], 404, "fallbacks"),
    ],
)
async def test_fallbacks_that_make_no_sense(
    client: aiohttp.ClientSession, fallbacks: object, status: int, where: str
) -> None:
    told = await ask(client, CHAT, body(CHAT, "gpt", fallbacks=fallbacks))
    assert (told.status, told.json["error"]["param"]) == (status, where)


async def test_when_all_fail_the_caller_hears_of_the_first_and_who_was_tried(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    hosted.vendors["gpt"].behave = vendors.refuses(429, "rate_limit_error", retry_after="9")
    hosted.vendors["claude"].behave = vendors.refuses(429, "rate_limit_error", retry_after="4")
    told = await ask(client, CHAT, body(CHAT, "gpt", fallbacks=["claude"]))
    assert told.status == 429
    assert told.headers["retry-after"] == "4"  # the first to be back
    assert told.json["error"]["message"].endswith("Tried: gpt=rate_limit_exceeded, claude=rate_limit_exceeded.")
    assert told.attempts == 2


async def test_attempts_are_bounded(start: StartHosted) -> None:
    hosted = await start(fallback={"max_attempts": 2, "max_wait_s": 0})
    for vendor in hosted.vendors.values():
        vendor.behave = OVERLOADED
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt", fallbacks=["claude", "groq", "spare"]))
    assert (told.status, told.attempts) == (503, 2)
    assert sum(len(vendor.calls) for vendor in hosted.vendors.values()) == 2


async def test_a_short_pause_that_the_provider_asks_for_is_waited_out_when_there_is_nobody_else(
    start: StartHosted,
) -> None:
    hosted = await start(fallback={"max_wait_s": 2})
    gpt = hosted.vendors["gpt"]
    gpt.behave = fake.in_turn(vendors.refuses(503, "server_error", retry_after_ms="20", retry_after="1"), gpt.well)
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt"))
    assert (told.status, told.attempts, len(gpt.calls)) == (200, 2, 2)


async def test_credit_does_not_come_back_by_asking(start: StartHosted) -> None:
    hosted = await start(fallback={"max_wait_s": 2})
    hosted.vendors["gpt"].behave = vendors.refuses(429, "insufficient_quota", "insufficient_quota")
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt"))
    assert (told.status, told.attempts, told.json["error"]["code"]) == (429, 1, "insufficient_quota")
    assert told.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "fault", [fake.resets, vendors.refuses(500, "server_error"), vendors.breaks_after(0, reset=True)]
)
async def test_what_often_passes_at_once_is_tried_once_more_when_there_is_nobody_else(
    start: StartHosted, fault: Behaviour
) -> None:
    hosted = await start(fallback={"max_wait_s": 2})
    gpt = hosted.vendors["gpt"]
    gpt.behave = fake.in_turn(fault, gpt.well)
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt", stream=True))
    assert (told.status, told.text(CHAT), told.attempts) == (200, TEXT, 2)
    gpt.behave = fault
    assert (await ask(await hosted.client(), CHAT, body(CHAT, "gpt", stream=True))).attempts == 2


async def test_what_a_fallback_cannot_be_asked_is_no_fault_of_the_callers(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    hosted.vendors["gpt"].behave = OVERLOADED
    told = await ask(client, CHAT, body(CHAT, "gpt", seed=1, fallbacks=["claude", "spare"]))
    assert told.headers["x-switchboard-served-by"].startswith("spare;")
    assert told.headers["x-switchboard-fallback-reason"] == "gpt=provider_overloaded, claude=unsupported_parameter"
    told = await ask(client, CHAT, body(CHAT, "gpt", seed=1, fallbacks=["claude"]))
    assert (told.status, int(told.headers["retry-after"])) == (503, 1)
    assert told.json["error"]["message"].endswith("Tried: gpt=provider_overloaded, claude=unsupported_parameter.")


async def refuses_to_say(call: Call) -> None:
    """Claude's way: a good answer without content."""
    refusal = vendors.message("m") | {"content": [], "stop_reason": "refusal"}
    events = [vendors.named(event) for event in vendors.told_as_events(refusal)]
    await (vendors.streams(events) if call.json.get("stream") else fake.answers(refusal))(call)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("opted_in", "served_by"), [(True, "spare;"), (False, "claude;")])
async def test_what_a_content_filter_leaves_nothing_of_moves_on_where_it_may(
    start: StartHosted, path: str, stream: bool, opted_in: bool, served_by: str
) -> None:
    hosted = await start(fallback={"max_wait_s": 0, "on_content_filter": opted_in})
    hosted.vendors["claude"].behave = refuses_to_say
    told = await ask(await hosted.client(), path, body(path, "claude-safe", stream=stream))
    assert told.status == 200
    assert told.headers["x-switchboard-served-by"].startswith(served_by.replace("claude", "claude-safe"))
    assert (told.text(path) == TEXT) is opted_in


@pytest.mark.parametrize("stream", [True, False])
async def test_and_is_passed_on_when_there_is_nobody_else(start: StartHosted, stream: bool) -> None:
    hosted = await start(fallback={"max_wait_s": 0, "on_content_filter": True})
    hosted.vendors["claude"].behave = hosted.vendors["spare"].behave = refuses_to_say
    told = await ask(await hosted.client(), MESSAGES, body(MESSAGES, "claude", stream=stream))
    assert (told.status, told.text(MESSAGES)) == (200, "")
    assert b"refusal" in told.raw


@pytest.mark.parametrize("fallback", ["spare", "keyless"])
async def test_what_the_model_that_was_asked_for_cannot_be_asked_is(
    hosted: Hosted, client: aiohttp.ClientSession, fallback: str
) -> None:
    told = await ask(client, CHAT, body(CHAT, "claude", seed=1, fallbacks=[fallback]))
    assert (told.status, told.json["error"]["param"], told.attempts) == (400, "seed", 1)
    assert hosted.vendors["spare"].calls == []


async def test_a_long_one_is_the_callers_to_wait(start: StartHosted) -> None:
    hosted = await start(fallback={"max_wait_s": 2})
    hosted.vendors["gpt"].behave = vendors.refuses(503, "server_error", retry_after="30")
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt"))
    assert (told.status, told.headers["retry-after"], told.attempts) == (503, "30", 1)


@pytest.mark.parametrize("path", PATHS)
async def test_the_client_may_shorten_its_deadline(hosted: Hosted, client: aiohttp.ClientSession, path: str) -> None:
    hosted.vendors["gpt"].behave = fake.hangs
    told = await ask(client, path, body(path, "gpt-safe"), **{"x-request-timeout-ms": "50"})
    assert told.status == 504
    assert hosted.vendors["spare"].calls == []


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e3", "9" * 12])
async def test_a_deadline_that_is_none(client: aiohttp.ClientSession, value: str) -> None:
    told = await ask(client, CHAT, body(CHAT, "gpt"), **{"x-request-timeout-ms": value})
    assert (told.status, told.json["error"]["param"]) == (400, "x-request-timeout-ms")


async def test_every_replica_of_a_hosted_model_asks_the_same_provider_so_one_is_enough(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    (first,) = hosted.registry.snapshot().replicas_of("gpt")
    await hosted.registry.hears(replace(first, replica_id="gpt-2"))
    hosted.vendors["gpt"].behave = OVERLOADED
    told = await ask(client, CHAT, body(CHAT, "gpt"))
    assert (told.status, told.attempts, len(hosted.vendors["gpt"].calls)) == (503, 1, 1)


async def test_a_replica_that_is_gone_is_another_matter(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    (first,) = hosted.registry.snapshot().replicas_of("gpt")
    await hosted.registry.hears(replace(first, replica_id="gpt-0", url="http://127.0.0.1:1"))
    for _ in range(8):
        assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


# Before an error is near.


async def test_a_full_model_spills_to_the_next(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    full = ReplicaState("gpt-1", "http://127.0.0.1:1", ReplicaPhase.READY, ("gpt-safe",), 1, Load(in_flight=1))
    await hosted.registry.loses("gpt-safe-1")
    await hosted.registry.hears(full)
    told = await ask(client, CHAT, body(CHAT, "gpt-safe"))
    assert told.text(CHAT) == TEXT
    assert told.headers["x-switchboard-fallback-reason"] == "gpt-safe=at_capacity"


async def test_so_does_one_that_has_no_replica_yet(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    await hosted.registry.loses("gpt-safe-1")
    told = await ask(client, CHAT, body(CHAT, "gpt-safe"))
    assert told.text(CHAT) == TEXT
    assert told.headers["x-switchboard-fallback-reason"] == "gpt-safe=service_unavailable"
    assert hosted.woken == ["gpt-safe"]


# Models without a key.


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_without_its_key_names_the_variable(client: aiohttp.ClientSession, path: str) -> None:
    told = await ask(client, path, body(path, "keyless"))
    assert told.status == 503
    assert "OPENAI_KEY_NOT_SET" in told.json["error"]["message"]
    listed = {entry["id"]: entry for entry in (await (await client.get("/v1/models")).json())["data"]}
    assert listed["keyless"]["unavailable"] == "the environment variable OPENAI_KEY_NOT_SET is not set"
    assert "unavailable" not in listed["gpt"]


async def test_it_does_not_keep_the_others_from_being_ready(client: aiohttp.ClientSession) -> None:
    async with client.get("/ready") as answer:
        assert answer.status == 200
        assert list((await answer.json())["unavailable"]) == ["keyless", "keyless-safe"]
    told = await ask(client, CHAT, body(CHAT, "keyless-safe"))
    assert told.text(CHAT) == TEXT


# Clients that leave.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["gpt", "claude"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_the_providers_request_ends_with_the_clients(
    start: StartHosted, model: str, path: str, stream: bool
) -> None:
    hosted = await start(first_byte_s=60, idle_s=60)
    hosted.vendors[model].behave = vendors.stalls_after(1) if stream else fake.hangs
    client = await hosted.client()
    asking = asyncio.create_task(ask(client, path, body(path, model, stream=stream)))
    call = await hosted.vendors[model].call()
    asking.cancel()
    await call.until_gone()


# Keys.


async def test_no_key_leaves_its_manager(
    hosted: Hosted, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = b""
    for vendor in ("gpt", "claude"):
        for behave in (REFUSED_KEY, vendors.reports_error_after(0), vendors.reports_error_after(1), fake.resets):
            hosted.vendors[vendor].behave = behave
            for path in PATHS:
                for stream in (True, False):
                    told = await ask(client, path, body(path, vendor, stream=stream))
                    shown += told.raw + repr(told.headers).encode()
    for page in ("/metrics", "/v1/models", "/ready"):
        async with client.get(page) as answer:
            shown += await answer.read()
    assert b"sk-canary" not in shown
    assert "sk-canary" not in caplog.text
    state = hosted.gateway.state
    assert "sk-canary" not in repr(state.settings) + repr(state.snapshot) + repr(vars(state))
    assert "sk-canary" not in hosted.settings.without_provider_keys().model_dump_json()


# What operators see.


async def test_the_admin_page_shows_who_is_left_out(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    client = await hosted.client()
    hosted.vendors["gpt"].behave = OVERLOADED
    await ask(client, CHAT, body(CHAT, "gpt"))
    async with client.get("/admin/replicas") as answer:
        assert answer.status == 200
        page = await answer.json()
    models = {model["name"]: model for model in page["models"]}
    assert models["gpt"]["breaker"] == "open"
    assert 50 < models["gpt"]["left_out_for_s"] <= 60
    assert (models["claude"]["breaker"], models["claude"]["replicas"]) == ("closed", 1)
    assert models["keyless"]["unavailable"] == "the environment variable OPENAI_KEY_NOT_SET is not set"
    assert {"gpt-1", "claude-1"} <= {replica["id"] for replica in page["replicas"]}
    await hosted.gateway.share_outages()
    async with client.get("/metrics") as answer:
        assert 'switchboard_breaker_state{replica="router-1",model="gpt",state="open"} 1.0' in await answer.text()


@pytest.mark.parametrize(
    ("auth", "key", "status"),
    [
        ({"keys": ["client-key-0123456789"]}, "client-key-0123456789", 401),
        ({"keys": ["client-key-0123456789"], "admin_keys": ["admin-key-0123456789"]}, "client-key-0123456789", 401),
        ({"keys": ["client-key-0123456789"], "admin_keys": ["admin-key-0123456789"]}, "admin-key-0123456789", 200),
        ({"admin_keys": ["admin-key-0123456789"]}, "any", 401),
    ],
)
async def test_no_client_key_opens_an_admin_page(
    start: StartHosted, auth: dict[str, list[str]], key: str, status: int
) -> None:
    client = await (await start(auth=auth)).client(authorization=f"Bearer {key}")
    async with client.get("/admin/replicas") as answer:
        assert answer.status == status
