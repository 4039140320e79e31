"""A hosted model's app before its provider. All that a provider may do wrong is in `tests/hosted`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from deployments import provider as asking
from deployments.hosted_app import HostedApp
from deployments.provider import Provider
from serve.api import http
from serve.api.http import Message
from serve.errors import InvalidRequest, SwitchboardError, TooManyRequests, Unavailable, UpstreamFailed
from serve.schemas import Json
from serve.translate.anthropic_openai import MessagesToChat
from serve.translate.openai_anthropic import ChatToMessages
from serve.translate.provider_events import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.translator import Translator
from serve.translate.vllm import REQUEST
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import PATIENCE_S, Behaviour, Call, listening
from tests.fakes.vendors import Vendor

ALL = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]


class Client:
    """Asks once. As with real servers, it has left as soon as it has all of its answer."""

    def __init__(self) -> None:
        self.has_it_all = asyncio.Event()
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def ask(self, app: HostedApp, path: str, request: Json) -> None:
        said = [{"type": "http.request", "body": json.dumps(request).encode(), "more_body": False}]

        async def receive() -> Message:
            if said:
                return said.pop()
            await self.has_it_all.wait()
            return {"type": "http.disconnect"}

        await app({"type": "http", "path": path, "headers": [], REQUEST: request}, receive, self._hear)

    async def _hear(self, message: Message) -> None:
        self.headers |= dict(message.get("headers", ()))
        self.body += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.has_it_all.set()


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    one = Vendor("m")
    async with listening(one), asyncio.timeout(PATIENCE_S):
        yield one


@pytest.fixture
async def provider(vendor: Vendor) -> AsyncIterator[Provider]:
    one = Provider(vendor.url, "", {"content-type": "application/json"})
    yield one
    await one.close()


def app_of(provider: Provider, path: str, translator: Translator | None = None) -> HostedApp:
    return HostedApp("m", provider, {path: translator})


def asked(path: str, *, stream: bool = False) -> Json:
    request: Json = {"model": "m", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return {"model": "m", "stream": stream, "input": "Hi"} if path == RESPONSES else request


def ends_after(*clients: Client) -> Behaviour:
    """Good streams whose HTTP bodies do not end before their client has its answer."""
    left = list(clients)

    async def behave(call: Call) -> None:
        client = left.pop(0)
        await fake.start_stream(call)
        for event in vendors.events_of(call.path, "m"):
            await call.chunk(event)
        await client.has_it_all.wait()
        await call.chunk(b"")

    return behave


# Connections.


@pytest.mark.parametrize("path", ALL)
async def test_streams_share_a_connection_though_their_bodies_end_behind_their_last_event(
    vendor: Vendor, provider: Provider, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "DRAIN_S", PATIENCE_S)
    monkeypatch.setattr(http, "LISTENS_AFTER_S", 0)
    clients = [Client() for _ in range(3)]
    vendor.behave = ends_after(*clients)
    for client in clients:
        await client.ask(app_of(provider, path), path, asked(path, stream=True))
        assert client.body == b"".join(vendors.events_of(path, "m"))
    assert vendor.connections == 1


async def test_so_do_streams_that_end_in_an_error(vendor: Vendor, provider: Provider) -> None:
    for _ in range(2):
        vendor.behave = vendors.reports_error_after(1)
        await Client().ask(app_of(provider, CHAT), CHAT, asked(CHAT, stream=True))
    assert vendor.connections == 1


async def _says_no_more(call: Call) -> None:
    await call.gone.wait()


async def _talks_on(call: Call) -> None:
    while True:
        await call.chunk(b"data: more\n\n" * 100)


@pytest.mark.parametrize(("goes_on", "drain_s"), [(_says_no_more, 0.01), (_talks_on, PATIENCE_S)])
async def test_a_body_that_does_not_end_is_left_and_its_connection_closed(
    vendor: Vendor, provider: Provider, goes_on: Behaviour, drain_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "DRAIN_S", drain_s)

    async def behave(call: Call) -> None:
        await fake.start_stream(call)
        for event in vendors.events_of(CHAT, "m"):
            await call.chunk(event)
        await goes_on(call)

    vendor.behave = behave
    client = Client()
    await client.ask(app_of(provider, CHAT), CHAT, asked(CHAT, stream=True))
    assert client.body == b"".join(vendors.events_of(CHAT, "m"))
    await vendor.calls[0].until_gone()


# Errors inside a 200.


def failed(error: Json | None) -> Json:
    return vendors.response("m", "failed") | {"error": error}


async def refusal(app: HostedApp, path: str, *, stream: bool) -> tuple[type[SwitchboardError], str, str | None]:
    with pytest.raises(SwitchboardError) as caught:
        await Client().ask(app, path, asked(path, stream=stream))
    return type(caught.value), caught.value.message, caught.value.code


@pytest.mark.parametrize(
    ("path", "answer", "error"),
    [
        (RESPONSES, failed({"code": "invalid_image", "message": "No image."}), InvalidRequest),
        (RESPONSES, failed({"code": "rate_limit_exceeded", "message": "Slow."}), TooManyRequests),
        (RESPONSES, failed({"code": "server_error", "message": "Sorry."}), UpstreamFailed),
        (RESPONSES, failed(None), UpstreamFailed),
        (CHAT, {"error": {"message": "No.", "type": "invalid_request_error", "code": None}}, InvalidRequest),
        (CHAT, {"error": "model is loading"}, UpstreamFailed),
        (MESSAGES, {"type": "error", "error": {"type": "overloaded_error", "message": "Full."}}, Unavailable),
    ],
)
async def test_an_error_inside_a_200_is_the_same_whole_and_streamed(
    vendor: Vendor, provider: Provider, path: str, answer: Json, error: type[SwitchboardError]
) -> None:
    app = app_of(provider, path)
    vendor.behave = fake.answers(answer)
    whole = await refusal(app, path, stream=False)
    event = {"type": "response.failed", "response": answer} if path == RESPONSES else answer
    vendor.behave = vendors.streams([vendors.named(event) if "type" in event else vendors.unnamed(event)])
    assert whole == await refusal(app, path, stream=True)
    assert whole[0] is error


# What a filter leaves nothing of.


def chat(**said: object) -> Json:
    answer = vendors.whole(CHAT, "m")
    answer["choices"][0] |= {"message": {"role": "assistant", **said}, "finish_reason": "content_filter"}
    return answer


def refused(*content: Json) -> Json:
    return vendors.message("m") | {"content": list(content), "stop_reason": "refusal"}


def incomplete() -> Json:
    return vendors.response("m", "incomplete") | {"incomplete_details": {"reason": "content_filter"}}


def told_as_events(path: str, answer: Json) -> list[bytes]:
    """The stream of an answer that a filter cut off."""
    if path == MESSAGES:
        return [vendors.named(event) for event in vendors.told_as_events(answer)]
    if path == RESPONSES:
        opened = {"type": "response.created", "response": vendors.response("m", "in_progress")}
        return [vendors.named(opened), vendors.named({"type": "response.incomplete", "response": answer})]
    deltas = [{"role": "assistant", "content": ""}, {"content": answer["choices"][0]["message"]["content"]}]
    base = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choices: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "content_filter"})
    return [*(vendors.unnamed(base | {"choices": [choice]}) for choice in choices), fake.DONE]


Way = tuple[str, str, Translator | None]
"""Which path the client asks, which one the provider, and what stands between."""
WAYS: list[Way] = [
    (CHAT, CHAT, None),
    (MESSAGES, CHAT, MessagesToChat()),
    (RESPONSES, CHAT, ResponsesToChat()),
    (MESSAGES, MESSAGES, None),
    (CHAT, MESSAGES, ChatToMessages()),
    (RESPONSES, RESPONSES, None),
]
NOTHING = {CHAT: chat(content=""), MESSAGES: refused(), RESPONSES: incomplete()}
A_PIECE = {CHAT: chat(content="Well"), MESSAGES: refused({"type": "text", "text": "Well"})}


async def mark(vendor: Vendor, provider: Provider, way: Way, answer: Json | None, *, stream: bool) -> bytes | None:
    path, at_provider, translator = way
    if answer is None:
        vendor.behave = vendor.well
    elif stream:
        vendor.behave = vendors.streams(told_as_events(at_provider, answer))
    else:
        vendor.behave = fake.answers(answer)
    client = Client()
    await client.ask(app_of(provider, path, translator), path, asked(path, stream=stream))
    return client.headers.get(b"x-switchboard-error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_the_router_is_told_of_a_good_answer_that_a_filter_left_nothing_of(
    vendor: Vendor, provider: Provider, way: Way, stream: bool
) -> None:
    assert await mark(vendor, provider, way, NOTHING[way[1]], stream=stream) == b"content_filter"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_but_not_of_one_that_says_something(vendor: Vendor, provider: Provider, way: Way, stream: bool) -> None:
    assert await mark(vendor, provider, way, None, stream=stream) is None
    if way[1] in A_PIECE:
        assert await mark(vendor, provider, way, A_PIECE[way[1]], stream=stream) is None
