"""A `local` model at a `base_url`: another server is asked as hosted providers are, and fails as they do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import pytest

from serve.errors import CONTEXT_LENGTH
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import PATIENCE_S, Behaviour
from tests.fakes.vendors import TEXT, unnamed
from tests.hosted.asking import CHAT, MESSAGES, PATHS, RESPONSES, Told, ask, body
from tests.hosted.conftest import CANARY, Hosted, StartHosted

SILENT_S = 0.5
"""Of a server that never goes on. A request must reach it within that time."""
LEAK = "Wrong key sk-canary-far-of-the-operator, see http://10.0.0.1/keys."
HTML = ("content-type", "text/html")

# Requests and answers.


async def test_it_is_asked_by_its_own_name_with_our_key_and_none_of_the_clients_headers(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    told = await ask(client, CHAT, body(CHAT, "far"), **{"x-mine": "1", "x-forwarded-for": "10.0.0.9"})
    assert (told.status, told.text(CHAT)) == (200, TEXT)
    call = await hosted.vendors["far"].call()
    assert (call.method, call.path) == ("POST", CHAT)
    assert call.json == body(CHAT, "far-at-its-vendor")
    assert call.header("authorization") == f"Bearer {CANARY.format('far')}"
    assert not [name for name, _ in call.headers if name.startswith("x-")]


@pytest.mark.parametrize("path", [*PATHS, "/v1/completions", "/v1/embeddings", "/v1/messages/count_tokens"])
async def test_every_endpoint_is_its_own_and_nothing_is_translated(
    hosted: Hosted, client: aiohttp.ClientSession, path: str
) -> None:
    asked = body(path, "far", prompt="Hi", input="Hi", max_tokens=9, best_of=2)
    assert (await ask(client, path, asked)).status == 200
    call = await hosted.vendors["far"].call()
    assert (call.path, call.json) == (path, asked | {"model": "far-at-its-vendor"})


async def test_what_anthropics_clients_say_in_headers_reaches_it(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    await ask(client, MESSAGES, body(MESSAGES, "far"), **{"anthropic-version": "2023-06-01"})
    assert (await hosted.vendors["far"].call()).header("anthropic-version") == "2023-06-01"


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_passes_as_it_is(hosted: Hosted, client: aiohttp.ClientSession, path: str) -> None:
    told = await ask(client, path, body(path, "far", stream=True))
    assert told.headers["content-type"] == "text/event-stream"
    assert told.raw == b"".join(vendors.events_of(path, "far-at-its-vendor"))


# Its faults.


@dataclass(frozen=True)
class Fault:
    """`status` is the client's when there is nobody else."""

    behave: Behaviour
    status: int
    code: str
    stream: bool = False
    first_byte_s: float = PATIENCE_S


def in_a_stream(**error: object) -> Behaviour:
    """As vLLM tells of an error once it has promised a stream."""
    return fake.streams_bytes(unnamed({"error": error}), fake.DONE)


VLLM = {"message": f"The model `far` does not exist. {LEAK}", "type": "NotFoundError", "param": "model", "code": 404}
LONG = "This model's maximum context length is 8 tokens. However, you requested 9 tokens."
FAULTS = {
    "role-then-reset": Fault(vendors.breaks_after(0, reset=True), 502, "upstream_error", stream=True),
    "role-then-end": Fault(vendors.breaks_after(0, reset=False), 502, "upstream_error", stream=True),
    "role-then-silence": Fault(vendors.stalls_after(0), 504, "deadline_exceeded", stream=True, first_byte_s=SILENT_S),
    "role-then-error": Fault(vendors.reports_error_after(0), 503, "provider_overloaded", stream=True),
    "too-long-in-a-stream": Fault(
        in_a_stream(message=LONG, type="BadRequestError", code=400), 400, CONTEXT_LENGTH, True
    ),
    "too-long": Fault(vendors.refuses(400, "BadRequestError", text=LONG), 400, CONTEXT_LENGTH),
    "too-long-of-llama.cpp": Fault(
        fake.answers({"error": {"message": "exceeds the available context size", "code": 400}}, 400),
        400,
        CONTEXT_LENGTH,
    ),
    "too-long-of-sglang": Fault(
        fake.answers({"object": "error", "message": LONG, "code": 400}, 400), 400, CONTEXT_LENGTH
    ),
    "unknown-model": Fault(fake.answers({"error": VLLM}, 404), 502, "provider_not_found"),
    "refused-key": Fault(vendors.refuses(401, "invalid_request_error", text=LEAK), 502, "provider_refused_credentials"),
    "moved": Fault(fake.answers_bytes(b"", 308, ("location", "http://10.0.0.1/")), 502, "provider_refused_request"),
    "a-page": Fault(fake.answers_bytes(b"<html>sk-canary</html>", 200, HTML), 502, "upstream_error"),
    "500": Fault(vendors.refuses(500, "server_error", text=LEAK), 502, "upstream_error"),
    "502": Fault(vendors.refuses(502, "server_error", text=LEAK), 502, "upstream_error"),
    "503": Fault(vendors.refuses(503, "server_error", text=LEAK), 503, "provider_overloaded"),
    "429": Fault(vendors.refuses(429, "rate_limit_error", text=LEAK), 429, "rate_limit_exceeded"),
    "reset": Fault(fake.resets, 502, "upstream_error"),
    "cut-head": Fault(fake.cut_at(20), 502, "upstream_error"),
    "cut-body": Fault(fake.declares(500, b'{"id": "x"'), 502, "upstream_error"),
    "no-http": Fault(fake.speaks_no_http, 502, "upstream_error"),
    "hangs": Fault(fake.hangs, 504, "deadline_exceeded", first_byte_s=SILENT_S),
}


def assert_clean(told: Told) -> None:
    for secret in (b"sk-canary", b"10.0.0.1", b"127.0.0.1", b"at-its-vendor"):
        assert secret not in told.raw


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_told_in_our_words(start: StartHosted, name: str) -> None:
    fault = FAULTS[name]
    hosted = await start(first_byte_s=fault.first_byte_s)
    hosted.vendors["far"].behave = fault.behave
    told = await ask(await hosted.client(), CHAT, body(CHAT, "far", stream=fault.stream))
    assert (told.status, told.headers["content-type"]) == (fault.status, "application/json")
    assert told.json["error"].keys() == {"message", "type", "param", "code"}
    assert told.json["error"]["code"] == fault.code
    assert_clean(told)
    assert len(hosted.vendors["far"].calls) == 1


@pytest.mark.parametrize("name", FAULTS)
async def test_another_model_answers_in_its_place(start: StartHosted, name: str) -> None:
    fault = FAULTS[name]
    hosted = await start(first_byte_s=fault.first_byte_s)
    hosted.vendors["far"].behave = fault.behave
    told = await ask(await hosted.client(), CHAT, body(CHAT, "far", stream=fault.stream, fallbacks=["spare"]))
    assert (told.status, told.text(CHAT), told.errors()) == (200, TEXT, [])
    assert told.headers["x-switchboard-served-by"].startswith("spare;")
    assert len(hosted.vendors["far"].calls) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "behave",
    [vendors.breaks_after(2, reset=False), vendors.breaks_after(2, reset=True), vendors.reports_error_after(2)],
)
async def test_an_answer_that_breaks_off_does_not_look_whole(
    hosted: Hosted, client: aiohttp.ClientSession, path: str, behave: Behaviour
) -> None:
    hosted.vendors["far"].behave = behave
    told = await ask(client, path, body(path, "far", stream=True, fallbacks=["spare"]))
    assert told.status == 200
    assert told.errors() == told.events[-1:]
    assert told.text(path) in ("Good ", "Good day")
    assert_clean(told)
    assert hosted.vendors["spare"].calls == []


async def test_what_the_caller_did_wrong_keeps_its_words_and_field_but_no_keys_and_addresses(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    wrong = {"message": f"temperature must be positive. {LEAK}", "type": "BadRequestError", "param": "temperature"}
    hosted.vendors["far"].behave = fake.answers({"error": wrong | {"code": 400}}, 400)
    told = await ask(client, CHAT, body(CHAT, "far", fallbacks=["spare"]))
    error = told.json["error"]
    assert (told.status, error["param"], error["code"]) == (400, "temperature", None)
    assert error["message"].startswith("temperature must be positive.")
    assert_clean(told)
    assert hosted.vendors["spare"].calls == []


async def test_so_does_what_a_stream_begins_with(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    hosted.vendors["far"].behave = in_a_stream(
        message="temperature must be positive.", type="BadRequestError", param="temperature", code=400
    )
    told = await ask(client, CHAT, body(CHAT, "far", stream=True, fallbacks=["spare"]))
    error = told.json["error"]
    assert (told.status, error["message"], error["param"]) == (400, "temperature must be positive.", "temperature")
    assert hosted.vendors["spare"].calls == []


async def test_a_server_that_refuses_our_key_is_asked_once(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 100, "open_s": 60, "max_wait_s": 0})
    client, far = await hosted.client(), hosted.vendors["far"]
    far.behave = vendors.refuses(401, "invalid_request_error", text=LEAK)
    assert [(await ask(client, CHAT, body(CHAT, "far"))).status for _ in range(3)] == [502, 503, 503]
    assert len(far.calls) == 1


async def test_its_failure_is_no_engines_so_everybody_may_be_asked(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    hosted.vendors["far"].behave = fake.answers_bytes(b"<html>", 502, HTML)
    hosted.vendors["gpt"].behave = vendors.refuses(503, "server_error")
    told = await ask(client, CHAT, body(CHAT, "far", fallbacks=["gpt", "spare"]))
    assert (told.text(CHAT), told.attempts) == (TEXT, 3)
    hosted.vendors["spare"].behave = fake.resets
    told = await ask(client, CHAT, body(CHAT, "far", fallbacks=["gpt", "spare"]))
    assert (told.status, told.json["error"]["code"]) == (502, "upstream_error")


async def test_nobody_there(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    await hosted.vendors["far"].refuse()
    told = await ask(client, CHAT, body(CHAT, "far"))
    assert (told.status, told.json["error"]["code"]) == (503, "provider_unreachable")
    assert_clean(told)
    assert (await ask(client, CHAT, body(CHAT, "far", fallbacks=["spare"]))).text(CHAT) == TEXT


# Endpoints that it has not.

MISSING = {
    "llama.cpp": fake.answers({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404),
    "fastapi": fake.answers({"detail": "Not Found"}, 404),
    "gin": fake.answers_bytes(b"404 page not found", 404, ("content-type", "text/plain")),
    "axum": fake.answers_bytes(b"", 404),
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_without_messages(
    hosted: Hosted, client: aiohttp.ClientSession, name: str, stream: bool
) -> None:
    hosted.vendors["far"].behave = MISSING[name]
    told = await ask(client, MESSAGES, body(MESSAGES, "far", stream=stream))
    assert (told.status, told.json["type"], told.json["error"]["type"]) == (502, "error", "api_error")
    assert told.json["error"]["message"] == "The provider does not know the model or the endpoint."
    told = await ask(client, MESSAGES, body(MESSAGES, "far", stream=stream, fallbacks=["spare"]))
    assert told.text(MESSAGES) == TEXT


async def test_is_not_left_out_for_it(start: StartHosted) -> None:
    hosted = await start(fallback={"failures": 1, "open_s": 60, "max_wait_s": 0})
    client, far = await hosted.client(), hosted.vendors["far"]
    far.behave = MISSING["fastapi"]
    for path in (MESSAGES, RESPONSES):
        assert (await ask(client, path, body(path, "far"))).status == 502
    far.behave = far.well
    assert (await ask(client, CHAT, body(CHAT, "far"))).status == 200


# Clients.


@pytest.mark.parametrize("stream", [True, False])
async def test_its_request_ends_with_the_clients(hosted: Hosted, stream: bool) -> None:
    hosted.vendors["far"].behave = vendors.stalls_after(1) if stream else fake.hangs
    client = await hosted.client()
    asking = asyncio.create_task(ask(client, CHAT, body(CHAT, "far", stream=stream)))
    call = await hosted.vendors["far"].call()
    asking.cancel()
    await call.until_gone()


async def test_it_takes_as_many_at_once_as_its_manager_lets_in(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    hosted.vendors["far"].behave = fake.hangs
    asking = [asyncio.create_task(ask(client, CHAT, body(CHAT, "far"))) for _ in range(90)]
    await hosted.vendors["far"].call(89)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
