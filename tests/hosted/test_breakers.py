"""Circuit breakers of hosted models: who is left out, for how long, and what does not count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import aiohttp
import pytest

from serve.api.http import Receive, Reply, Scope, Send, send_reply
from serve.routing.health import Breakers, Outage
from tests.fakes import vendors
from tests.fakes.serving import served
from tests.fakes.vendors import OVERLOADED, REFUSED_KEY
from tests.hosted.asking import CHAT, ask, body
from tests.hosted.conftest import Hosted, StartHosted


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def left_out_for_10_s(start: StartHosted) -> tuple[Hosted, aiohttp.ClientSession, Clock]:
    """With `gpt` left out after its first failure, by a clock that the test moves."""
    hosted = await start(fallback={"failures": 1, "open_s": 10, "max_wait_s": 0})
    client, clock = await hosted.client(), Clock()
    hosted.gateway.state.breakers = Breakers(clock)
    hosted.vendors["gpt"].behave = OVERLOADED
    await ask(client, CHAT, body(CHAT, "gpt"))
    return hosted, client, clock


async def test_a_model_that_keeps_failing_is_left_out_without_being_asked(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 2, "open_s": 60, "max_wait_s": 0})
    client, gpt = await hosted.client(), hosted.vendors["gpt"]
    gpt.behave = OVERLOADED
    for _ in range(2):
        assert (await ask(client, CHAT, body(CHAT, "gpt-safe"))).attempts == 2
    left_out = await ask(client, CHAT, body(CHAT, "gpt-safe"))
    assert (left_out.status, left_out.attempts, len(gpt.calls)) == (200, 1, 2)
    assert left_out.headers["x-switchboard-fallback-reason"] == "gpt-safe=left_out_after_failures"


async def test_who_has_nobody_else_hears_so_at_once(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    client, gpt = await hosted.client(), hosted.vendors["gpt"]
    gpt.behave = OVERLOADED
    await ask(client, CHAT, body(CHAT, "gpt"))
    told = await ask(client, CHAT, body(CHAT, "gpt"))
    assert told.status == 503
    assert 50 <= int(told.headers["retry-after"]) <= 60
    assert len(gpt.calls) == 1


async def test_a_refused_key_takes_the_model_out_at_once(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 100, "open_s": 60, "max_wait_s": 0})
    client, gpt = await hosted.client(), hosted.vendors["gpt"]
    gpt.behave = REFUSED_KEY
    first = await ask(client, CHAT, body(CHAT, "gpt"))
    assert (first.status, first.json["error"]["code"]) == (502, "provider_refused_credentials")
    assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 503
    assert len(gpt.calls) == 1


async def test_one_trial_after_a_while_decides(start: StartHosted) -> None:
    hosted, client, clock = await left_out_for_10_s(start)
    gpt = hosted.vendors["gpt"]
    clock.now = 10.0
    assert (await ask(client, CHAT, body(CHAT, "gpt"))).attempts == 1  # the trial, which fails: twice as long
    clock.now = 29.0
    left_out = await ask(client, CHAT, body(CHAT, "gpt"))
    assert (left_out.attempts, left_out.headers["x-switchboard-served-by"]) == (0, "none")
    clock.now, gpt.behave = 30.0, gpt.well
    for _ in range(3):
        assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


async def test_a_trial_that_streams_keeps_nobody_else_waiting(start: StartHosted) -> None:
    hosted, client, clock = await left_out_for_10_s(start)
    gpt = hosted.vendors["gpt"]
    clock.now, gpt.behave = 10.0, vendors.stalls_after(2)
    async with client.post(CHAT, json=body(CHAT, "gpt", stream=True)) as trial:
        await trial.content.readuntil(b"\n\n")
        gpt.behave = gpt.well
        assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


async def test_our_own_bound_says_nothing_of_the_provider(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    hosted.managers["gpt"].limit(1 << 20, {"gpt": 0})
    full = await ask(client, CHAT, body(CHAT, "gpt"))
    assert (full.status, full.json["error"]["code"]) == (429, "at_capacity")
    hosted.managers["gpt"].limit(1 << 20, {"gpt": 1})
    assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


async def test_a_replica_that_is_full_is_passed_over(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    (first,) = hosted.registry.snapshot().replicas_of("gpt")

    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"x-switchboard-error", b"at_capacity")]
        await send_reply(send, Reply(429, headers, b"{}"))

    async with served(full) as url:
        await hosted.registry.hears(replace(first, replica_id="gpt-0", url=url))
        for _ in range(8):
            assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


@pytest.mark.parametrize(("status", "code"), [(405, "provider_not_found"), (409, "provider_refused_request")])
async def test_what_a_provider_refuses_is_no_outage_and_not_worth_asking_again(
    start: StartHosted, status: int, code: str
) -> None:
    hosted = await start(fallback={"failures": 1, "max_wait_s": 2})
    client, gpt = await hosted.client(), hosted.vendors["gpt"]
    gpt.behave = vendors.refuses(status, "invalid_request_error")
    for asked in (1, 2):
        told = await ask(client, CHAT, body(CHAT, "gpt"))
        assert (told.status, told.json["error"]["code"], len(gpt.calls)) == (502, code, asked)


async def test_what_the_caller_does_wrong_does_not_count(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "max_wait_s": 0})
    client, gpt = await hosted.client(), hosted.vendors["gpt"]
    gpt.behave = vendors.refuses(400, "invalid_request_error")
    for _ in range(3):
        assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 400
    assert len(gpt.calls) == 3


async def test_routers_tell_each_other_who_is_left_out(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    hosted.registry.outages["router-2"] = {"gpt-safe": Outage(30.0)}
    await hosted.gateway.share_outages()
    told = await ask(await hosted.client(), CHAT, body(CHAT, "gpt-safe"))
    assert told.headers["x-switchboard-served-by"].startswith("spare;")
    assert hosted.vendors["gpt"].calls == []
