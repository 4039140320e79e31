"""What a provider's own API allows reaches it, what is the caller's fault stays the caller's, and defaults fit."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from serve.schemas import Json
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import Behaviour
from tests.hosted.asking import CHAT, MESSAGES, RESPONSES, ask, body
from tests.hosted.conftest import Hosted, StartHosted, model

CONVERSATION = {"message": "Conversation with id 'conv_x' not found.", "param": "conversation", "code": None}


@pytest.mark.parametrize(
    ("path", "name", "behave", "param", "said"),
    [
        (RESPONSES, "gpt", fake.answers({"error": CONVERSATION}, 404), "conversation", "conv_x"),
        (
            MESSAGES,
            "claude",
            vendors.refuses(404, "not_found_error", text="File not found: file_011"),
            None,
            "file_011",
        ),
    ],
)
async def test_what_one_caller_names_and_nobody_has_is_no_outage_for_the_others(
    start: StartHosted, path: str, name: str, behave: Behaviour, param: str | None, said: str
) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    client, vendor = await hosted.client(), hosted.vendors[name]
    vendor.behave = behave
    told = await ask(client, path, body(path, name, fallbacks=["spare"]))
    assert (told.status, told.attempts) == (404, 1)
    assert told.json["error"].get("param") == param
    assert said in told.json["error"]["message"]
    vendor.behave = vendor.well
    assert (await ask(client, path, body(path, name))).status == 200


async def test_a_model_that_its_provider_does_not_know_falls_back_and_is_no_outage(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    client, claude = await hosted.client(), hosted.vendors["claude"]
    claude.behave = vendors.refuses(404, "not_found_error", text="model: nobody")
    told = await ask(client, MESSAGES, body(MESSAGES, "claude", fallbacks=["spare"]))
    assert told.headers["x-switchboard-fallback-reason"] == "claude=provider_not_found"
    claude.behave = claude.well
    assert (await ask(client, MESSAGES, body(MESSAGES, "claude"))).status == 200


@pytest.mark.parametrize(
    "stored", [{"prompt": {"id": "p"}}, {"conversation": "c"}, {"previous_response_id": "r", "input": []}]
)
async def test_what_openai_stores_stands_in_for_an_input(
    hosted: Hosted, client: aiohttp.ClientSession, stored: Json
) -> None:
    asked = {"model": "gpt", **stored}
    assert (await ask(client, RESPONSES, asked)).status == 200
    assert (await hosted.vendors["gpt"].call()).json.items() >= stored.items()
    for translated in ("groq", "claude"):
        told = await ask(client, RESPONSES, asked | {"model": translated})
        assert (told.status, told.json["error"]["param"]) == (400, next(iter(stored)))


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"fallbacks": "default"}, {"fallbacks": [{"model": "other"}]}])
async def test_what_only_anthropic_has_reaches_it_and_is_refused_elsewhere(
    hosted: Hosted, client: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    assert (await ask(client, MESSAGES, body(MESSAGES, "claude") | fields)).status == 200
    assert (await hosted.vendors["claude"].call()).json.items() >= fields.items()
    told = await ask(client, MESSAGES, body(MESSAGES, "gpt") | fields)
    assert told.status == 400
    assert next(iter(fields)) in told.json["error"]["message"]


async def test_defaults_fit_every_endpoint(start: StartHosted, hosted: Hosted) -> None:
    row = {"frequency_penalty": 0.5, "reasoning_effort": "low", "max_completion_tokens": 500}
    own = model("gpt", "openai", hosted.vendors["gpt"], default_params=row)
    started = await start(models=[own], bots={"terse": {"model": "gpt", "default_params": {"max_tokens": 20}}})
    client, gpt = await started.client(), hosted.vendors["gpt"]
    sent: dict[tuple[str, str], Json] = {}
    for name in ("gpt", "terse"):
        for path in (CHAT, RESPONSES, MESSAGES):
            assert (await ask(client, path, body(path, name))).status == 200
            sent[name, path] = gpt.calls[-1].json
    assert sent["gpt", CHAT].items() >= row.items()
    assert sent["gpt", RESPONSES].keys() == {"model", "stream", "input", "reasoning", "max_output_tokens"}
    assert sent["gpt", RESPONSES]["reasoning"] == {"effort": "low"}
    assert sent["gpt", MESSAGES].keys() == {"model", "messages", "max_completion_tokens"}
    assert sent["gpt", MESSAGES]["max_completion_tokens"] == 64
    assert sent["terse", CHAT].keys() >= {"max_tokens", "frequency_penalty"}
    assert "max_completion_tokens" not in sent["terse", CHAT]
    assert sent["terse", RESPONSES]["max_output_tokens"] == 20
