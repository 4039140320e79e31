"""The vendors' SDKs as clients, strict in what they read, against every provider through both APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import anthropic
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve.schemas import Json
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.vendors import TEXT, USAGE
from tests.hosted.asking import QUESTION
from tests.hosted.conftest import Hosted

MODELS = ("gpt", "claude", "groq")
TOOL: Any = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}
ASKED: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
async def gpt_sdk(hosted: Hosted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{hosted.url}/v1", api_key="any", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


@pytest.fixture
async def claude_sdk(hosted: Hosted) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=hosted.url, api_key="any", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


@pytest.mark.parametrize("model", MODELS)
class TestOpenAI:
    async def test_chat(self, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
        answer = await gpt_sdk.chat.completions.create(model=model, messages=ASKED)
        assert answer.choices[0].message.content == TEXT
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == USAGE
        ChatCompletion.model_validate(answer.model_dump(), strict=True)

    async def test_chat_streamed(self, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
        text, usage = "", None
        options: Any = {"include_usage": True}
        async for chunk in await gpt_sdk.chat.completions.create(
            model=model, messages=ASKED, stream=True, stream_options=options
        ):
            ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert text == TEXT
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == USAGE

    async def test_responses(self, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
        answer = await gpt_sdk.responses.create(model=model, input=QUESTION)
        assert answer.output_text == TEXT
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == USAGE
        Response.model_validate(answer.model_dump(), strict=True)

    async def test_responses_streamed(self, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
        events = [event async for event in await gpt_sdk.responses.create(model=model, input=QUESTION, stream=True)]
        for event in events:
            TypeAdapter(ResponseStreamEvent).validate_python(event.model_dump())
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        last = events[-1]
        assert last.type == "response.completed"
        assert last.response.output_text == TEXT


@pytest.mark.parametrize("model", MODELS)
class TestAnthropic:
    async def test_messages(self, claude_sdk: anthropic.AsyncAnthropic, model: str) -> None:
        answer = await claude_sdk.messages.create(model=model, messages=ASKED, max_tokens=64)
        assert [block.text for block in answer.content if block.type == "text"] == [TEXT]
        assert answer.stop_reason == "end_turn"
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == USAGE
        Message.model_validate(answer.model_dump(), strict=True)

    async def test_messages_streamed(self, claude_sdk: anthropic.AsyncAnthropic, model: str) -> None:
        async with claude_sdk.messages.stream(model=model, messages=ASKED, max_tokens=64) as stream:
            assert "".join([text async for text in stream.text_stream]) == TEXT
            whole = await stream.get_final_message()
        assert whole.stop_reason == "end_turn"
        assert whole.usage.output_tokens == USAGE[1]

    async def test_every_event_is_one_that_the_sdk_knows(
        self, claude_sdk: anthropic.AsyncAnthropic, model: str
    ) -> None:
        stream = await claude_sdk.messages.create(model=model, messages=ASKED, max_tokens=64, stream=True)
        kinds = []
        async for event in stream:
            TypeAdapter(RawMessageStreamEvent).validate_python(event.model_dump())
            kinds.append(event.type)
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]


async def test_tokens_are_counted_where_the_provider_does(claude_sdk: anthropic.AsyncAnthropic) -> None:
    assert (await claude_sdk.messages.count_tokens(model="claude", messages=ASKED)).input_tokens == USAGE[0]
    with pytest.raises(anthropic.BadRequestError, match="provider has nothing like"):
        await claude_sdk.messages.count_tokens(model="gpt", messages=ASKED)


async def test_a_tool_loop_with_claude_through_chat(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI) -> None:
    called = vendors.message("claude") | {"stop_reason": "tool_use"}
    called["content"] = [{"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {"zone": "UTC"}}]
    claude = hosted.vendors["claude"]
    claude.behave = fake.in_turn(fake.answers(called), claude.well)
    first = await gpt_sdk.chat.completions.create(model="claude", messages=ASKED, tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("clock", '{"zone":"UTC"}')
    turns: Any = [*ASKED, message.model_dump(exclude_none=True)]
    turns.append({"role": "tool", "tool_call_id": call.id, "content": "12:00"})
    second = await gpt_sdk.chat.completions.create(model="claude", messages=turns, tools=[TOOL])
    assert second.choices[0].message.content == TEXT
    sent = (await claude.call(1)).json
    assert sent["messages"][1]["content"][0]["type"] == "tool_use"
    assert sent["messages"][2]["content"][0] == {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "12:00"}],
    }


THOUGHT: list[Json] = [
    {"type": "thinking", "thinking": "Which zone?", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "c2VjcmV0"},
]
CALLS: list[Json] = [
    {"type": "tool_use", "id": f"toolu_{zone}", "name": "clock", "input": {"zone": zone}} for zone in ("UTC", "CET")
]
CLOCK: Any = {"type": "function", **TOOL["function"], "strict": False}


async def asks_for_a_response(sdk: openai.AsyncOpenAI, streamed: bool, **asked: Any) -> Response:
    """As clients do that keep the conversation themselves. Of a stream, the items are those that were `done`."""
    asked |= {"model": "claude", "tools": [CLOCK], "store": False, "reasoning": {"effort": "low"}}
    if not streamed:
        return cast(Response, await sdk.responses.create(**asked))
    events: list[Any] = [event async for event in await sdk.responses.create(**asked, stream=True)]
    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_python(event.model_dump())
    last = events[-1]
    assert last.type == "response.completed"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [item.model_dump() for item in last.response.output]
    return cast(Response, last.response)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("more", [{}, {"include": ["reasoning.encrypted_content"]}])
async def test_a_tool_loop_with_claude_through_responses_keeps_what_it_thought(
    hosted: Hosted, gpt_sdk: openai.AsyncOpenAI, streamed: bool, more: Json
) -> None:
    claude = hosted.vendors["claude"]
    said = {"type": "text", "text": "One moment.", "citations": None}
    called = vendors.message("claude") | {"stop_reason": "tool_use", "content": [*THOUGHT, said, *CALLS]}
    events = [vendors.named(event) for event in vendors.told_as_events(called)]
    claude.behave = fake.in_turn(vendors.streams(events) if streamed else fake.answers(called), claude.well)
    first = await asks_for_a_response(gpt_sdk, streamed, input=ASKED, **more)
    Response.model_validate(first.model_dump(), strict=True)
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call", "function_call"]
    turns = [*ASKED, *(item.model_dump(exclude_unset=True) for item in first.output)]
    turns += [{"type": "function_call_output", "call_id": call["id"], "output": "12:00"} for call in CALLS]
    second = await asks_for_a_response(gpt_sdk, streamed, input=turns, **more)
    assert second.output_text == TEXT
    sent = (await claude.call(1)).json
    assert sent["thinking"] == {"type": "adaptive"}
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"] == [*THOUGHT, {"type": "text", "text": "One moment."}, *CALLS]
    assert [result["tool_use_id"] for result in sent["messages"][2]["content"]] == [call["id"] for call in CALLS]


async def test_what_claude_thought_is_not_sent_to_a_server_that_has_chat_alone(
    hosted: Hosted, gpt_sdk: openai.AsyncOpenAI
) -> None:
    hosted.vendors["claude"].behave = fake.answers(vendors.message("claude") | {"content": [*THOUGHT, *CALLS[:1]]})
    first = await gpt_sdk.responses.create(model="claude", input=QUESTION, tools=[CLOCK])
    turns: Any = [*ASKED, *(item.model_dump(exclude_unset=True) for item in first.output)]
    turns.append({"type": "function_call_output", "call_id": CALLS[0]["id"], "output": "12:00"})
    await gpt_sdk.responses.create(model="groq", input=turns, tools=[CLOCK])
    asked, called, result = (await hosted.vendors["groq"].call()).json["messages"]
    assert set(called) == {"role", "content", "tool_calls"}
    assert (asked["role"], result["role"]) == ("user", "tool")


async def test_nor_to_one_whose_own_responses_go_through_whole(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI) -> None:
    hosted.vendors["claude"].behave = fake.answers(vendors.message("claude") | {"content": [*THOUGHT, *CALLS[:1]]})
    first = await gpt_sdk.responses.create(model="claude", input=QUESTION, tools=[CLOCK])
    own = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA-of-its-own"}
    turns: Any = [*ASKED, own, *(item.model_dump(exclude_unset=True) for item in first.output)]
    turns.append({"type": "function_call_output", "call_id": CALLS[0]["id"], "output": "12:00"})
    await gpt_sdk.responses.create(model="gpt", input=turns, tools=[CLOCK])
    sent = (await hosted.vendors["gpt"].call()).json["input"]
    assert [item.get("type") for item in sent] == [None, "reasoning", "function_call", "function_call_output"]
    assert sent[1] == own


async def test_damaged_thinking_is_refused_by_name(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI) -> None:
    hosted.vendors["claude"].behave = fake.answers(vendors.message("claude") | {"content": [*THOUGHT, *CALLS[:1]]})
    first = await gpt_sdk.responses.create(model="claude", input=QUESTION, tools=[CLOCK])
    turns: Any = [*ASKED, *(item.model_dump(exclude_unset=True) for item in first.output)]
    turns[1]["encrypted_content"] = turns[1]["encrypted_content"][:-5]
    with pytest.raises(openai.BadRequestError) as refused:
        await gpt_sdk.responses.create(model="claude", input=turns, tools=[CLOCK])
    assert refused.value.param == "input[1].encrypted_content"


async def test_what_cannot_be_carried_over_is_refused_by_name(gpt_sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await gpt_sdk.chat.completions.create(model="claude", messages=ASKED, seed=7)
    assert refused.value.param == "seed"


@pytest.mark.parametrize(("path", "field"), [("embeddings", "input"), ("completions", "prompt")])
async def test_what_a_provider_has_nothing_like(gpt_sdk: openai.AsyncOpenAI, path: str, field: str) -> None:
    with pytest.raises(openai.BadRequestError, match="provider has nothing like"):
        await gpt_sdk.post(f"/{path}", cast_to=object, body={"model": "claude", field: "x"})


async def test_unknown_fields_reach_a_provider_of_the_same_api_whole(
    hosted: Hosted, gpt_sdk: openai.AsyncOpenAI
) -> None:
    await gpt_sdk.chat.completions.create(model="gpt", messages=ASKED, extra_body={"brand_new": {"a": [1, None]}})
    sent = (await hosted.vendors["gpt"].call()).json
    assert sent["brand_new"] == {"a": [1, None]}
    assert sent["model"] == "gpt-at-its-vendor"


async def test_claude_gets_the_headers_that_ask_for_its_betas(
    hosted: Hosted, claude_sdk: anthropic.AsyncAnthropic
) -> None:
    await claude_sdk.messages.create(
        model="claude", messages=ASKED, max_tokens=64, extra_headers={"anthropic-beta": "new-thing-2026"}
    )
    call = await hosted.vendors["claude"].call()
    assert call.header("anthropic-beta") == "new-thing-2026"
    assert call.header("authorization") == "Bearer sk-canary-claude-of-the-operator"
    assert [name for name, _ in call.headers if name.startswith("x-switchboard")] == []
