"""The tokens of hosted models, counted by their manager: whole and streamed, translated or not, however it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from deployments.base_llm_manager import BaseLLMManager
from deployments.manager_app import ManagerApp
from serve.api.http import Message
from serve.schemas import Json
from serve.translate.usage import CACHED_INPUT, ESTIMATED, INPUT, OUTPUT, REPORTED
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import Behaviour, Call
from tests.fakes.vendors import USAGE
from tests.hosted.asking import MESSAGES, PATHS, RESPONSES, body
from tests.hosted.conftest import MANAGERS, SECRET, Hosted

MODELS = ("gpt", "claude")
Spent = dict[tuple[str, str], float]
"""Tokens by kind and source."""
IN, OUT, CACHED, GUESSED = (INPUT, REPORTED), (OUTPUT, REPORTED), (CACHED_INPUT, REPORTED), (OUTPUT, ESTIMATED)
WELL: Spent = {IN: USAGE[0], OUT: USAGE[1]}


def spent(model: str) -> Spent:
    """So far. What was counted as none is left out."""
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    return {
        (sample.labels["kind"], sample.labels["source"]): sample.value
        for sample in samples
        if sample.name == "switchboard_tokens_total" and sample.labels["model"] == model and sample.value
    }


class Router:
    """Asks a manager as a router does. An answer is over when all is counted."""

    def __init__(self, manager: BaseLLMManager, model: str) -> None:
        self._app = ManagerApp(manager, SECRET, 1 << 20, capacity=100)
        self._model = model

    async def ask(self, path: str, asked: Json, *, leaves_after: bytes | None = None) -> tuple[Spent, bytes]:
        """What it cost and what came. `leaves_after`: the client is gone once it has read this."""
        before, gone, came = spent(self._model), asyncio.Event(), b""
        said = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]

        async def receive() -> Message:
            if not said:
                await gone.wait()
                return {"type": "http.disconnect"}
            return said.pop()

        async def send(message: Message) -> None:
            nonlocal came
            came += message.get("body", b"")
            if leaves_after is not None and leaves_after in came:
                gone.set()

        named = [(b"x-switchboard-secret", SECRET.encode()), (b"x-switchboard-model", self._model.encode())]
        await self._app({"type": "http", "method": "POST", "path": path, "headers": named}, receive, send)
        now = spent(self._model)
        return {key: now[key] - before.get(key, 0) for key in now if now[key] != before.get(key, 0)}, came


@asynccontextmanager
async def router(hosted: Hosted, model: str, behave: Behaviour | None = None) -> AsyncIterator[Router]:
    vendor = hosted.vendors[model]
    vendor.behave = behave or vendor.well
    manager = MANAGERS[hosted.settings.managers()[model].provider].from_settings(hosted.settings, model)
    try:
        yield Router(manager, model)
    finally:
        await manager.close()


def early(model: str) -> Spent:
    """What is known of a stream that broke off: Anthropic counts the prompt before it answers."""
    return {IN: USAGE[0]} if model == "claude" else {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", [*MODELS, "far"])
async def test_an_answer_is_counted_once(hosted: Hosted, model: str, path: str, stream: bool) -> None:
    async with router(hosted, model) as manager:
        for _ in range(2):
            assert (await manager.ask(path, body(path, model, stream=stream)))[0] == WELL
    assert spent(f"{model}-at-its-vendor") == {}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("reset", [False, True])
async def test_of_a_stream_that_breaks_off_what_came(hosted: Hosted, model: str, path: str, reset: bool) -> None:
    async with router(hosted, model, vendors.breaks_after(2, reset=reset)) as manager:
        cost, _ = await manager.ask(path, body(path, model, stream=True))
    assert cost.pop(GUESSED) in ((1, 2) if reset else (2,))  # a RST may overtake what was sent before it
    assert cost == early(model)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", MODELS)
async def test_a_client_that_leaves_has_spent_what_came(hosted: Hosted, model: str, path: str) -> None:
    async with router(hosted, model, vendors.stalls_after(2)) as manager:
        cost, came = await manager.ask(path, body(path, model, stream=True), leaves_after=b"day")
        await (await hosted.vendors[model].call()).until_gone()
    assert cost == early(model) | {GUESSED: 2}
    assert came


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("content", [0, 1])
async def test_so_has_one_whose_answer_turns_into_an_error(hosted: Hosted, model: str, path: str, content: int) -> None:
    async with router(hosted, model, vendors.reports_error_after(content)) as manager:
        cost, _ = await manager.ask(path, body(path, model, stream=True))
    assert cost == early(model) | ({GUESSED: content} if content else {})


async def test_without_usage_the_events_with_content(hosted: Hosted) -> None:
    events = [event for event in vendors.events_of("/v1/chat/completions", "m") if b'"choices": []' not in event]
    async with router(hosted, "gpt", vendors.streams(events)) as manager:
        cost, came = await manager.ask(PATHS[0], body(PATHS[0], "gpt", stream=True))
    assert (cost, came) == ({GUESSED: 4}, b"".join(events))


@pytest.mark.parametrize("stream", [False, True])
async def test_what_came_from_a_cache_is_a_part_of_the_input(hosted: Hosted, stream: bool) -> None:
    async def behave(call: Call) -> None:
        change = (b'"cache_read_input_tokens": 0', b'"cache_read_input_tokens": 5')
        if stream:
            await vendors.streams([event.replace(*change) for event in vendors.events_of(MESSAGES, "m")])(call)
        else:
            answer = json.dumps(vendors.whole(MESSAGES, "m")).encode().replace(*change)
            await fake.answers_bytes(answer, 200, ("content-type", "application/json"))(call)

    async with router(hosted, "claude", behave) as manager:
        for path in PATHS:
            cost, _ = await manager.ask(path, body(path, "claude", stream=stream))
            assert cost == {IN: USAGE[0] + 5, CACHED: 5, OUT: USAGE[1]}


async def test_a_whole_answer_that_reports_a_failure_is_counted(hosted: Hosted) -> None:
    failed = vendors.response("m", "completed") | {
        "status": "failed",
        "error": {"code": "server_error", "message": "No."},
    }
    async with router(hosted, "gpt", fake.answers(failed)) as manager:
        assert (await manager.ask(RESPONSES, body(RESPONSES, "gpt")))[0] == WELL


@pytest.mark.parametrize(
    "behave",
    [
        vendors.refuses(500, "api_error"),
        fake.answers({"usage": {"prompt_tokens": True, "completion_tokens": -1, "prompt_tokens_details": []}}),
        fake.answers({"usage": "a lot"}),
        fake.declares(500, b'{"id": "x"'),
    ],
)
async def test_nothing_told_is_nothing_counted(hosted: Hosted, behave: Behaviour) -> None:
    async with router(hosted, "gpt", behave) as manager:
        assert (await manager.ask(PATHS[0], body(PATHS[0], "gpt")))[0] == {}


async def test_embeddings_have_input_only(hosted: Hosted) -> None:
    told = {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    async with router(hosted, "gpt", fake.answers(told)) as manager:
        assert (await manager.ask("/v1/embeddings", {"model": "gpt", "input": "Hi"}))[0] == {IN: 8}


async def test_counting_tokens_uses_none(hosted: Hosted) -> None:
    path = "/v1/messages/count_tokens"
    async with router(hosted, "claude") as manager:
        cost, came = await manager.ask(path, {"model": "claude", "messages": [{"role": "user", "content": "Hi"}]})
    assert (cost, json.loads(came)) == ({}, {"input_tokens": USAGE[0]})
