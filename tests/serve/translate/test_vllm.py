import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.errors import stream_error
from serve.errors import EngineFailed, InvalidRequest, SwitchboardError, Unavailable
from serve.translate.sse import Splitter, parse
from serve.translate.vllm import MAX_EVENT_BYTES, REQUEST, REQUEST_ID, Mended
from serve.translate.vllm_events import STREAMS as RULES
from tests.serve.translate.recorded import recorded

BODIES = recorded("bodies")
STREAMS = recorded("streams")
ERROR_STREAMS = recorded("error_streams")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@dataclass
class Client:
    """What reached the client."""

    messages: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def started(self) -> bool:
        return bool(self.messages)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def ended(self) -> bool:
        return [m.get("more_body", False) for m in self.messages if "body" in m][-1:] == [False]

    def events(self) -> list[tuple[str | None, Any]]:
        blocks = Splitter(MAX_EVENT_BYTES).feed(self.body)
        events = [parse(block) for block in blocks]
        return [(e.name, "[DONE]" if e.data == b"[DONE]" else json.loads(e.data or b"null")) for e in events]


async def unheard() -> Message:
    return {"type": "http.disconnect"}


def replying(status: int, content_type: str, *chunks: bytes, error: Exception | None = None) -> ASGIApp:
    """An app that answers as recorded, and may then break."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"1"), (b"x-kept", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if error is not None:
            raise error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def streaming(*blocks: str | bytes, error: Exception | None = None) -> ASGIApp:
    chunks = [block.encode() if isinstance(block, str) else block for block in blocks]
    return replying(200, "text/event-stream; charset=utf-8", *chunks, error=error)


async def ask(app: ASGIApp, path: str, **extras: Any) -> Client:
    client = Client()
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], **extras}
    await Mended(app, stream_error)(scope, unheard, client.send)
    return client


async def refused(app: ASGIApp, path: str) -> SwitchboardError:
    """Ask where the answer is an error: it is raised, and the client has heard nothing."""
    client = Client()
    with pytest.raises(SwitchboardError) as caught:
        await Mended(app, stream_error)({"type": "http", "path": path}, unheard, client.send)
    assert not client.started
    return caught.value


# Whole bodies


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_is_mended_and_measured_again(name: str) -> None:
    case = BODIES[name]
    body = json.dumps(case["body"]).encode()
    client = await ask(replying(200, "application/json", body[:50], body[50:]), case["path"])
    assert client.messages[0]["status"] == 200
    assert client.headers[b"content-length"] == str(len(client.body)).encode()
    assert client.headers[b"x-kept"] == b"1"
    assert client.ended
    assert json.loads(client.body)["id"] == case["body"]["id"]


async def test_a_response_repeats_fields_of_the_request_in_the_scope() -> None:
    body = json.dumps(BODIES["resp"]["body"]).encode()
    client = await ask(replying(200, "application/json", body), RESPONSES, **{REQUEST: {"prompt_cache_key": "k"}})
    assert json.loads(client.body)["prompt_cache_key"] == "k"


@pytest.mark.parametrize("body", [b"plain", b"[1]", b"\xff"])
async def test_a_body_that_is_no_object_is_passed_on(body: bytes) -> None:
    assert (await ask(replying(200, "application/json", body), CHAT)).body == body


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages/count_tokens", "/metrics"])
async def test_what_needs_no_mending_is_not_touched(path: str) -> None:
    client = await ask(replying(200, "application/json", b'{"a" : null', b"}"), path)
    assert client.body == b'{"a" : null}'
    assert client.headers[b"content-length"] == b"1"


async def test_an_error_status_is_raised() -> None:
    body = b'{"error":{"message":"n must be at most 5, got 9.","type":"BadRequestError","code":400}}'
    error = await refused(replying(400, "application/json", body[:9], body[9:]), CHAT)
    assert isinstance(error, InvalidRequest)
    assert error.param == "n"


async def test_an_aborted_generation_is_no_answer() -> None:
    body = b'{"choices":[{"finish_reason":"abort"}]}'
    assert isinstance(await refused(replying(200, "application/json", body), CHAT), Unavailable)


async def test_an_exception_before_the_answer_is_raised_as_ours() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("secret")

    error = await refused(broken, CHAT)
    assert isinstance(error, EngineFailed)
    assert "secret" not in error.message


async def test_an_error_of_ours_goes_through() -> None:
    ours = Unavailable("Later.")

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        raise ours

    assert await refused(busy, CHAT) is ours


async def test_the_error_that_an_app_tells_before_it_raises_counts() -> None:
    body = b'{"error":{"message":"dead","type":"InternalServerError","code":503}}'
    app = replying(503, "application/json", body, error=RuntimeError("again"))

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            await send({**message, "more_body": False} if message.get("body") else message)

        await app(scope, receive, last)

    assert isinstance(await refused(whole, CHAT), Unavailable)


async def test_other_protocols_go_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await Mended(app, stream_error)({"type": "lifespan"}, unheard, Client().send)
    assert seen == ["lifespan"]


# Streams

EVENT_TYPES: dict[str, TypeAdapter[Any]] = {
    CHAT: TypeAdapter(ChatCompletionChunk),
    RESPONSES: TypeAdapter(ResponseStreamEvent),
    MESSAGES: TypeAdapter(RawMessageStreamEvent),
}


@pytest.mark.parametrize("name", [name for name in STREAMS if not name.startswith("comp")])
async def test_the_sdks_types_accept_every_event(name: str) -> None:
    case = STREAMS[name]
    client = await ask(streaming(*case["blocks"]), case["path"])
    assert client.ended
    for event_name, data in client.events():
        if data != "[DONE]":
            event = EVENT_TYPES[case["path"]].validate_python(data)
            assert event_name is None or event.type == event_name


@pytest.mark.parametrize("name", ["comp_s", "comp_s_lp"])
async def test_a_completion_stream_is_openais_but_for_the_sdks_finish_reason(name: str) -> None:
    # OpenAI sends null there until the last chunk, which its SDK's strict reading refuses.
    client = await ask(streaming(*STREAMS[name]["blocks"]), "/v1/completions")
    for _, data in client.events()[:-1]:
        for choice in data["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(data)


@pytest.mark.parametrize("name", ["chat_s", "chat_s_usage", "comp_s", "msg_s", "msg_s_tool"])
async def test_events_without_a_fault_keep_their_bytes(name: str) -> None:
    case = STREAMS[name]
    client = await ask(streaming(*case["blocks"]), case["path"])
    assert client.body == "".join(case["blocks"]).encode()


async def test_an_untouched_event_is_passed_on_as_it_came() -> None:
    blocks = [block.encode() for block in STREAMS["chat_s"]["blocks"]]
    client = await ask(streaming(*blocks), CHAT)
    assert [message["body"] for message in client.messages[1:]] == [*blocks, b""]


async def test_chat_logprobs_in_a_stream_have_both_lists() -> None:
    client = await ask(streaming(*STREAMS["chat_s_lp"]["blocks"]), CHAT)
    logprobs = [
        choice["logprobs"]
        for _, data in client.events()
        if data != "[DONE]"
        for choice in data["choices"]
        if choice["logprobs"]
    ]
    assert logprobs
    assert all(set(each) == {"content", "refusal"} for each in logprobs)


async def test_a_response_cut_off_by_its_limit_ends_incomplete() -> None:
    client = await ask(streaming(*STREAMS["resp_s"]["blocks"]), RESPONSES)
    name, data = client.events()[-1]
    assert (name, data["type"], data["response"]["status"]) == ("response.incomplete",) * 2 + ("incomplete",)
    assert data["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [data["sequence_number"] for _, data in client.events()] == list(range(9))


async def test_a_whole_response_ends_completed() -> None:
    client = await ask(streaming(*STREAMS["resp_s_tool"]["blocks"]), RESPONSES)
    assert client.events()[-1][0] == "response.completed"


@pytest.mark.parametrize("name", ERROR_STREAMS)
async def test_a_stream_that_begins_with_an_error_is_an_error(name: str) -> None:
    case = ERROR_STREAMS[name]
    error = await refused(streaming(*case["blocks"]), case["path"])
    assert isinstance(error, InvalidRequest)


class VLLMClientError(Exception):
    parameter = "top_logprobs"


async def test_a_response_refused_after_it_was_announced_is_an_error() -> None:
    error = RuntimeError("Caught handled exception, but response already started.")
    error.__cause__ = VLLMClientError("top_logprobs must be at most 20")
    refusal = await refused(streaming(*STREAMS["resp_s"]["blocks"][:2], error=error), RESPONSES)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.param == "top_logprobs"


async def test_the_status_waits_for_the_first_event_that_says_something() -> None:
    seen: list[bool] = []
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        for block in [": keep-alive\n\n", *STREAMS["resp_s"]["blocks"][:3]]:
            await send({"type": "http.response.body", "body": block.encode(), "more_body": True})
            seen.append(client.started)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    await Mended(app, stream_error)({"type": "http", "path": RESPONSES}, unheard, client.send)
    assert seen == [False, False, False, True]
    assert [name for name, _ in client.events()] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]


@pytest.mark.parametrize("blocks", [[], [": keep-alive\n\n"], STREAMS["resp_s"]["blocks"][:2]])
async def test_a_stream_that_says_nothing_is_an_error(blocks: Sequence[str]) -> None:
    assert isinstance(await refused(streaming(*blocks), RESPONSES), EngineFailed)


DEAD = 'data: {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}\n\n'


async def test_an_error_in_the_middle_is_told_once_and_ends_the_stream() -> None:
    blocks = [*STREAMS["chat_s"]["blocks"][:2], DEAD, "data: [DONE]\n\n"]
    client = await ask(streaming(*blocks), CHAT)
    *before, (_, error), (_, done) = client.events()
    assert len(before) == 2
    assert error["error"]["code"] == "engine_error"
    assert "EngineCore" not in error["error"]["message"]
    assert done == "[DONE]"
    assert client.ended


async def test_an_anthropic_error_in_the_middle_bears_the_request_id() -> None:
    error = 'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"/usr/x"}}\n\n'
    blocks = [*STREAMS["msg_s"]["blocks"][:3], error]
    client = await ask(streaming(*blocks), MESSAGES, **{REQUEST_ID: "req_1"})
    name, data = client.events()[-1]
    assert (name, data["error"]["type"], data["request_id"]) == ("error", "api_error", "req_1")
    assert client.ended


async def test_an_exception_in_the_middle_is_an_error_event_with_the_next_number() -> None:
    blocks = STREAMS["resp_s"]["blocks"][:5]
    client = await ask(streaming(*blocks, error=RuntimeError("secret")), RESPONSES)
    name, data = client.events()[-1]
    assert (name, data["code"], data["sequence_number"]) == ("error", "engine_error", 5)
    assert b"secret" not in client.body
    assert client.ended


async def test_an_aborted_stream_does_not_end_as_if_it_were_whole() -> None:
    abort = 'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}\n\n'
    client = await ask(streaming(STREAMS["chat_s"]["blocks"][0], abort), CHAT)
    assert client.events()[-2][1]["error"]["code"] == "service_unavailable"
    assert b'finish_reason":"abort' not in client.body


async def test_words_of_the_answer_are_not_taken_for_its_form() -> None:
    tricky = json.dumps(
        {"choices": [{"delta": {"content": 'data: {"error": 1} "finish_reason":"abort"\nevent: error'}}]}
    )
    blocks = [f"data: {tricky}\n\n", "data: [DONE]\n\n"]
    assert (await ask(streaming(*blocks), CHAT)).body == "".join(blocks).encode()


async def test_an_endless_event_ends_the_stream() -> None:
    flood = [b"data: " + b"x" * (1 << 20)] + [b"x" * (1 << 20)] * 9
    assert isinstance(await refused(streaming(*flood), CHAT), EngineFailed)
    client = await ask(streaming(STREAMS["chat_s"]["blocks"][0], *flood), CHAT)
    assert client.events()[1][1]["error"]["code"] == "engine_error"


@given(
    st.sampled_from(sorted(STREAMS) + sorted(ERROR_STREAMS)),
    st.lists(st.integers(1, 5000), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
)
def test_where_a_stream_is_cut_makes_no_difference(name: str, cuts: list[int], line_end: str) -> None:
    case = STREAMS.get(name) or ERROR_STREAMS[name]
    whole = "".join(case["blocks"]).replace("\n", line_end).encode()
    bounds = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    cut = [whole[start:end] for start, end in pairwise(bounds)]
    assert outcome(streaming(*cut), case["path"]) == outcome(streaming(*case["blocks"]), case["path"])


def outcome(app: ASGIApp, path: str) -> Any:
    async def run() -> Any:
        try:
            return undated((await ask(app, path)).events())
        except SwitchboardError as error:
            return type(error), error.args

    return asyncio.run(run())


def undated(events: list[tuple[str | None, Any]]) -> list[tuple[str | None, Any]]:
    for _, data in events:
        if isinstance(data, dict) and isinstance(data.get("response"), dict):
            data["response"]["completed_at"] = None
    return events


def test_no_delta_of_a_token_is_parsed() -> None:
    for case in STREAMS.values():
        for block in case["blocks"]:
            if '.delta"' in block or "text_delta" in block or '"delta":{"content":"' in block:
                plain = '"logprobs":{' not in block
                assert RULES[case["path"]].passes(block.encode()) is plain
