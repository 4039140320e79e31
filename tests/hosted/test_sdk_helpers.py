"""What the SDKs add on top: synchronous clients, stream helpers, tools in streams, structured output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from serve.schemas import Json
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.vendors import TEXT, named, unnamed
from tests.hosted.asking import QUESTION
from tests.hosted.conftest import Hosted

ASKED: Any = [{"role": "user", "content": QUESTION}]
ARGUMENTS = '{"zone":"UTC"}'


class Mood(BaseModel):
    mood: str


@pytest.fixture
async def gpt_sdk(hosted: Hosted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hosted.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def claude_sdk(hosted: Hosted) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=hosted.url, api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_synchronous_clients(hosted: Hosted, model: str) -> None:
    def ask() -> tuple[str | None, list[str]]:
        with (
            openai.OpenAI(base_url=f"{hosted.url}/v1", api_key="any", max_retries=0) as one,
            anthropic.Anthropic(base_url=hosted.url, api_key="any", max_retries=0) as other,
        ):
            said = one.chat.completions.create(model=model, messages=ASKED).choices[0].message.content
            message = other.messages.create(model=model, messages=ASKED, max_tokens=64)
            return said, [block.text for block in message.content if block.type == "text"]

    assert await asyncio.to_thread(ask) == (TEXT, [TEXT])


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_the_stream_helper_of_chat(gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
    async with gpt_sdk.chat.completions.stream(model=model, messages=ASKED) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == TEXT


@pytest.mark.parametrize("model", ["gpt", "groq", "claude"])
async def test_the_stream_helper_of_responses(gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
    async with gpt_sdk.responses.stream(model=model, input=QUESTION) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_text == TEXT


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_structured_output_is_parsed(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
    said = '{"mood": "good"}'
    whole = vendors.whole("/v1/messages" if model == "claude" else "/v1/chat/completions", model)
    if model == "claude":
        whole["content"][0]["text"] = said
    else:
        whole["choices"][0]["message"]["content"] = said
    hosted.vendors[model].behave = fake.answers(whole)
    answer = await gpt_sdk.chat.completions.parse(model=model, messages=ASKED, response_format=Mood)
    assert answer.choices[0].message.parsed == Mood(mood="good")
    sent = (await hosted.vendors[model].call()).json
    schema = sent["output_config"]["format"]["schema"] if model == "claude" else sent["response_format"]["json_schema"]
    assert "mood" in json.dumps(schema)


def gpt_calls_a_tool() -> list[bytes]:
    base: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "clock", "arguments": ""}}
    deltas: list[Json] = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"zone"', ':"UTC"}')]
    chunks = [base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    chunks.append(base | {"choices": [], "usage": vendors.chat_usage()})
    return [*(unnamed(chunk) for chunk in chunks), fake.DONE]


def claude_calls_a_tool() -> list[bytes]:
    start, _, _, *_ = vendors.message_events("claude")
    block = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": part}}
        for part in ('{"zone"', ':"UTC"}')
    ]
    events: list[Json] = [start, {"type": "content_block_start", "index": 0, "content_block": block}, *deltas]
    events.append({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 3}})
    return [named(event) for event in [*events, {"type": "message_stop"}]]


STREAMS = {"gpt": gpt_calls_a_tool, "claude": claude_calls_a_tool}


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_tool_call_in_a_stream_of_chat(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI, model: str) -> None:
    hosted.vendors[model].behave = vendors.streams(STREAMS[model]())
    async with gpt_sdk.chat.completions.stream(model=model, messages=ASKED) as stream:
        async for _ in stream:
            pass
        choice = (await stream.get_final_completion()).choices[0]
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("clock", json.loads(ARGUMENTS))
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_tool_call_in_a_stream_of_messages(
    hosted: Hosted, claude_sdk: anthropic.AsyncAnthropic, model: str
) -> None:
    hosted.vendors[model].behave = vendors.streams(STREAMS[model]())
    async with claude_sdk.messages.stream(model=model, messages=ASKED, max_tokens=64) as stream:
        message = await stream.get_final_message()
    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.name, block.input) == ("clock", json.loads(ARGUMENTS))
    assert message.stop_reason == "tool_use"


def cut_off(events: list[bytes], second_half: bytes, reasons: tuple[bytes, bytes]) -> list[bytes]:
    """The stream of a call whose second half the length limit cut off."""
    return [event.replace(*reasons) for event in events if second_half not in event]


UTC = rb":\"UTC\"}"
FIRST_HALF = '{"zone"'


async def test_a_call_that_the_length_limit_cut_off_in_a_stream_of_messages(
    hosted: Hosted, claude_sdk: anthropic.AsyncAnthropic
) -> None:
    told = cut_off(gpt_calls_a_tool(), UTC, (b'"finish_reason": "tool_calls"', b'"finish_reason": "length"'))
    hosted.vendors["gpt"].behave = vendors.streams(told)
    async with claude_sdk.messages.stream(model="gpt", messages=ASKED, max_tokens=64) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        message = await stream.get_final_message()
    assert pieces == [FIRST_HALF]
    assert [block.type for block in message.content] == ["tool_use"]
    assert message.stop_reason == "max_tokens"


async def test_a_call_that_the_length_limit_cut_off_in_a_whole_message(
    hosted: Hosted, claude_sdk: anthropic.AsyncAnthropic
) -> None:
    whole = vendors.whole("/v1/chat/completions", "gpt")
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": FIRST_HALF}}
    whole["choices"][0]["message"]["tool_calls"] = [call]
    whole["choices"][0]["finish_reason"] = "length"
    hosted.vendors["gpt"].behave = fake.answers(whole)
    message = await claude_sdk.messages.create(model="gpt", messages=ASKED, max_tokens=64)
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "max_tokens"


async def test_a_call_of_claudes_that_the_length_limit_cut_off(hosted: Hosted, gpt_sdk: openai.AsyncOpenAI) -> None:
    told = cut_off(claude_calls_a_tool(), UTC, (b'"stop_reason": "tool_use"', b'"stop_reason": "max_tokens"'))
    hosted.vendors["claude"].behave = vendors.streams(told)
    arguments, finish = "", None
    async for chunk in await gpt_sdk.chat.completions.create(model="claude", messages=ASKED, stream=True):
        for choice in chunk.choices:
            calls = choice.delta.tool_calls or []
            arguments += "".join(call.function.arguments or "" for call in calls if call.function)
            finish = choice.finish_reason or finish
    assert (arguments, finish) == (FIRST_HALF, "length")
    events = [event async for event in await gpt_sdk.responses.create(model="claude", input=QUESTION, stream=True)]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    (item,) = last.response.output
    assert item.type == "function_call"
    assert (item.arguments, item.status) == (FIRST_HALF, "incomplete")


async def test_a_tool_loop_with_gpt_through_messages(hosted: Hosted, claude_sdk: anthropic.AsyncAnthropic) -> None:
    gpt = hosted.vendors["gpt"]
    whole = vendors.whole("/v1/chat/completions", "gpt")
    function = {"name": "clock", "arguments": ARGUMENTS}
    whole["choices"][0] |= {
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        "finish_reason": "tool_calls",
    }
    gpt.behave = fake.in_turn(fake.answers(whole), gpt.well)
    tools: Any = [{"name": "clock", "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}}}]
    first = await claude_sdk.messages.create(model="gpt", messages=ASKED, max_tokens=64, tools=tools)
    result: Any = [{"type": "tool_result", "tool_use_id": "call_1", "content": "12:00"}]
    turns: Any = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": result}]
    second = await claude_sdk.messages.create(model="gpt", messages=turns, max_tokens=64, tools=tools)
    assert second.stop_reason == "end_turn"
    sent = (await gpt.call(1)).json["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool"]
    assert sent[2] == {"role": "tool", "tool_call_id": "call_1", "content": "12:00"}


async def test_a_refused_request_raises_what_the_sdk_has_for_it(
    hosted: Hosted, gpt_sdk: openai.AsyncOpenAI, claude_sdk: anthropic.AsyncAnthropic
) -> None:
    hosted.vendors["gpt"].behave = vendors.refuses(429, "rate_limit_error", retry_after="3")
    with pytest.raises(openai.RateLimitError) as limited:
        await gpt_sdk.chat.completions.create(model="gpt", messages=ASKED)
    assert limited.value.response.headers["retry-after"] == "3"
    with pytest.raises(anthropic.RateLimitError):
        await claude_sdk.messages.create(model="gpt", messages=ASKED, max_tokens=5)
    hosted.vendors["claude"].behave = vendors.reports_error_after(1)
    with pytest.raises(openai.APIError):
        async for _ in await gpt_sdk.chat.completions.create(model="claude", messages=ASKED, stream=True):
            pass
    with pytest.raises(anthropic.APIStatusError):
        async with claude_sdk.messages.stream(model="claude", messages=ASKED, max_tokens=5) as stream:
            await stream.get_final_message()
