"""Every fault of a provider, through every API, streamed and not, with another model to turn to and without."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
import pytest

from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import PATIENCE_S, Behaviour
from tests.hosted.asking import CHAT, MESSAGES, PATHS, ask, body
from tests.hosted.conftest import Hosted, StartHosted

SILENT_S = 0.5
"""Of a model that never goes on. A request must reach it within that time."""
HTML = ("content-type", "text/html")


@dataclass(frozen=True)
class Fault:
    """`status` is the client's when there is nobody else; 200 for one that comes after the first content."""

    behave: Behaviour
    status: int
    streams: bool | None = None
    """Whether it is one of streams, of whole answers, or of both (None)."""
    first_byte_s: float = PATIENCE_S
    idle_s: float = PATIENCE_S
    """How long the model may keep silent, before and after its first byte: short where the fault is that it does."""


FAULTS = {
    "hangs": Fault(fake.hangs, 504, first_byte_s=SILENT_S),
    "reset": Fault(fake.resets, 502),
    "cut-head": Fault(fake.cut_at(20), 502),
    "cut-body": Fault(fake.cut_at(100), 502, streams=False),
    "short-body": Fault(fake.declares(500, b'{"id": "x"'), 502, streams=False),
    "no-http": Fault(fake.speaks_no_http, 502),
    "rate-limit-with-retry-after": Fault(vendors.refuses(429, "rate_limit_error", retry_after="7"), 429),
    "rate-limit": Fault(vendors.refuses(429, "rate_limit_error", "rate_limit_exceeded"), 429),
    "no-credit": Fault(vendors.refuses(429, "insufficient_quota", "insufficient_quota"), 429),
    "500": Fault(vendors.refuses(500, "api_error"), 502),
    "502": Fault(fake.answers_bytes(b"<html>", 502, HTML), 502),
    "503": Fault(vendors.refuses(503, "server_error", "server_is_overloaded"), 503),
    "529": Fault(vendors.refuses(529, "overloaded_error"), 503),
    "401": Fault(vendors.refuses(401, "authentication_error", text="Wrong key sk-canary-gpt-of-the-operator"), 502),
    "403": Fault(vendors.refuses(403, "permission_error"), 502),
    "404": Fault(vendors.refuses(404, "not_found_error", text="model: nobody"), 502),
    "redirect": Fault(fake.answers_bytes(b"", 302, ("location", "http://10.0.0.1/internal")), 502),
    "html": Fault(fake.answers_bytes(b"<html>hello</html>", 200, HTML), 502),
    "not-json": Fault(fake.answers_bytes(b'{"id": ', 200, ("content-type", "application/json")), 502, streams=False),
    "too-long-a-prompt": Fault(
        vendors.refuses(400, "invalid_request_error", "context_length_exceeded", "prompt is too long: 9 > 8"), 400
    ),
    "empty-stream": Fault(fake.empty_stream, 502, streams=True),
    "senseless-event": Fault(vendors.then(0, b"data: {not json\n\n"), 502, streams=True),
    "error-event-first": Fault(vendors.reports_error_after(0), 503, streams=True),
    "ends-before-content": Fault(vendors.breaks_after(0, reset=False), 502, streams=True),
    "reset-before-content": Fault(vendors.breaks_after(0, reset=True), 502, streams=True),
    "stalls-before-content": Fault(vendors.stalls_after(0), 504, streams=True, first_byte_s=SILENT_S),
    "ends-after-content": Fault(vendors.breaks_after(1, reset=False), 200, streams=True),
    "reset-after-content": Fault(vendors.breaks_after(2, reset=True), 200, streams=True),
    "stalls-after-content": Fault(vendors.stalls_after(1), 200, streams=True, idle_s=SILENT_S),
    "error-event-after-content": Fault(vendors.reports_error_after(1), 200, streams=True),
    "senseless-event-after-content": Fault(vendors.then(1, b"data: {not json\n\n"), 200, streams=True),
}
CASES = [
    pytest.param(fault, path, stream, model, id=f"{name}-{path[4:]}-{'stream' if stream else 'whole'}-{model}")
    for name, fault in FAULTS.items()
    for path in PATHS
    for stream in (True, False)
    for model in ("gpt", "claude")
    if fault.streams in (None, stream)
]


def assert_clean(raw: bytes) -> None:
    for secret in (b"sk-canary", b"10.0.0.1", b"127.0.0.1", b"Traceback", b"api.openai.com"):
        assert secret not in raw


@pytest.mark.parametrize(("fault", "path", "stream", "model"), CASES)
async def test_alone(start: StartHosted, fault: Fault, path: str, stream: bool, model: str) -> None:
    hosted = await start(first_byte_s=fault.first_byte_s, idle_s=fault.idle_s)
    client = await hosted.client()
    hosted.vendors[model].behave = fault.behave
    told = await ask(client, path, body(path, model, stream=stream))
    assert told.status == fault.status, told.raw
    assert told.attempts == 1
    assert len(hosted.vendors[model].calls) == 1
    assert_clean(told.raw)
    if fault.status == 200:
        assert len(told.errors()) == 1
        assert told.errors()[0] == told.events[-1]
        assert told.text(path) in ("Good ", "Good day")
        return
    assert told.headers["content-type"] == "application/json"
    error = told.json["error"]
    assert (told.json["type"] == "error" and told.json["request_id"]) if path == MESSAGES else "code" in error
    if fault.status in (429, 503):
        assert int(told.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("fault", "path", "stream", "model"), CASES)
async def test_with_a_fallback(start: StartHosted, fault: Fault, path: str, stream: bool, model: str) -> None:
    hosted = await start(first_byte_s=fault.first_byte_s, idle_s=fault.idle_s)
    client = await hosted.client()
    hosted.vendors[model].behave = fault.behave
    told = await ask(client, path, body(path, f"{model}-safe", stream=stream))
    assert told.status == 200, told.raw
    assert_clean(told.raw)
    if fault.status == 200:
        assert len(told.errors()) == 1
        assert told.text(path) in ("Good ", "Good day")
        assert hosted.vendors["spare"].calls == []
        assert told.attempts == 1
        return
    assert told.text(path) == vendors.TEXT
    assert told.errors() == []
    assert told.attempts == 2
    assert told.headers["x-switchboard-served-by"].startswith("spare;")
    assert told.headers["x-switchboard-fallback-reason"].startswith(f"{model}-safe=")
    assert [len(hosted.vendors[name].calls) for name in (model, "spare")] == [1, 1]


async def test_the_pause_that_a_provider_asks_for_reaches_the_caller(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    hosted.vendors["gpt"].behave = vendors.refuses(429, "rate_limit_error", retry_after="7")
    told = await ask(client, CHAT, body(CHAT, "gpt"))
    assert told.headers["retry-after"] == "7"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("path", PATHS)
async def test_what_the_caller_did_wrong_is_nobody_elses_to_answer(
    hosted: Hosted, client: aiohttp.ClientSession, path: str, status: int
) -> None:
    hosted.vendors["gpt"].behave = vendors.refuses(status, "invalid_request_error", "bad", "No such 'voice'.")
    told = await ask(client, path, body(path, "gpt-safe"))
    assert told.status == 400
    assert "No such 'voice'." in told.json["error"]["message"]
    assert hosted.vendors["spare"].calls == []


async def test_a_connection_closed_between_two_requests_is_no_fault(
    hosted: Hosted, client: aiohttp.ClientSession
) -> None:
    hosted.vendors["gpt"].behave = fake.closes_after_answer
    for _ in range(3):
        assert (await ask(client, CHAT, body(CHAT, "gpt"))).status == 200


async def test_a_provider_that_cannot_be_reached(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    await hosted.vendors["gpt"].refuse()
    told = await ask(client, CHAT, body(CHAT, "gpt"))
    assert (told.status, told.headers["retry-after"]) == (503, "1")
    assert (await ask(client, CHAT, body(CHAT, "gpt-safe"))).text(CHAT) == vendors.TEXT
