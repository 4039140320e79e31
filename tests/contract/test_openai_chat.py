from __future__ import annotations

import json

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.shared_params import ResponseFormatJSONSchema

from tests.contract.questions import (
    ANSWER,
    QUESTION,
    SCHEMA,
    SUPPORT_ANSWER,
    TOOL_NAME,
    TOOL_PARAMETERS,
)

pytestmark = pytest.mark.engine

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "When the shop is open",
        "parameters": TOOL_PARAMETERS,
        "strict": True,
    },
}
NO_ENDLESS_SPACE = 2.0
"""Between JSON's tokens a model this small writes white space without end; a penalty for repeating ends it."""
FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "hours", "schema": SCHEMA, "strict": True},
}


def test_a_question_is_answered(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="demo", messages=ASKED)

    (choice,) = completion.choices
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert completion.object == "chat.completion"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_the_async_client_is_answered_too(async_openai: AsyncOpenAI) -> None:
    completion = await async_openai.chat.completions.create(model="demo:support", messages=ASKED)

    assert completion.choices[0].message.content == SUPPORT_ANSWER


def test_a_stream_says_the_same_with_the_same_usage(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model="demo", messages=ASKED)

    with openai.chat.completions.create(
        model="demo", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == ANSWER
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_async_client_streams(async_openai: AsyncOpenAI) -> None:
    stream = await async_openai.chat.completions.create(model="support", messages=ASKED, stream=True)

    async with stream:
        said = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]

    assert "".join(said) == SUPPORT_ANSWER


def test_the_stream_helper_puts_the_message_together(openai: OpenAI) -> None:
    with openai.chat.completions.stream(model="demo", messages=ASKED) as stream:
        completion = stream.get_final_completion()

    assert completion.choices[0].message.content == ANSWER


def test_two_answers_to_one_question(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="demo", messages=ASKED, n=2, temperature=1, seed=1)

    assert [choice.index for choice in completion.choices] == [0, 1]


def test_two_answers_in_one_stream(openai: OpenAI) -> None:
    with openai.chat.completions.create(model="demo", messages=ASKED, n=2, temperature=1, stream=True) as stream:
        indices = {choice.index for chunk in stream for choice in chunk.choices}

    assert indices == {0, 1}


def test_logprobs_come_for_each_token(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="demo", messages=ASKED, logprobs=True, top_logprobs=2)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert completion.usage is not None
    assert len(logprobs.content) == completion.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)


def test_logprobs_come_in_a_stream(openai: OpenAI) -> None:
    with openai.chat.completions.create(
        model="demo", messages=ASKED, logprobs=True, top_logprobs=1, stream=True
    ) as stream:
        chunks = list(stream)

    assert any(choice.logprobs for chunk in chunks for choice in chunk.choices)


def test_a_stop_sequence_ends_the_answer_before_it(openai: OpenAI) -> None:
    stop = ANSWER.split()[3]

    completion = openai.chat.completions.create(model="demo", messages=ASKED, stop=[stop])

    (choice,) = completion.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == ANSWER.partition(stop)[0]


def test_max_tokens_ends_the_answer_early(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="demo", messages=ASKED, max_completion_tokens=3)

    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_a_json_schema_is_kept_to(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="demo", messages=ASKED, response_format=FORMAT, max_tokens=200)

    said = json.loads(completion.choices[0].message.content or "")
    assert said.keys() == {"open", "days"}


@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_tool_is_called(openai: OpenAI, choice: str) -> None:
    completion = openai.chat.completions.create(
        model="demo",
        messages=ASKED,
        tools=[TOOL],
        tool_choice="required" if choice == "required" else {"type": "function", "function": {"name": TOOL_NAME}},
        frequency_penalty=NO_ENDLESS_SPACE,
        max_tokens=200,
    )

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == TOOL_NAME
    assert json.loads(call.function.arguments)["weekday"] in ("monday", "sunday")


def test_a_tool_is_called_in_a_stream(openai: OpenAI) -> None:
    with openai.chat.completions.create(
        model="demo",
        messages=ASKED,
        tools=[TOOL],
        tool_choice="required",
        frequency_penalty=NO_ENDLESS_SPACE,
        max_tokens=200,
        stream=True,
    ) as stream:
        calls = [call for chunk in stream for c in chunk.choices for call in c.delta.tool_calls or []]

    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert {call.function.name for call in calls if call.function and call.function.name} == {TOOL_NAME}
    assert json.loads(arguments)["weekday"] in ("monday", "sunday")


def test_the_conversation_goes_on_after_a_tool(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        *ASKED,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": TOOL_NAME, "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "9 to 6"},
    ]

    completion = openai.chat.completions.create(model="demo", messages=messages, max_tokens=20)

    assert completion.choices[0].message.content


def test_an_unknown_model_is_the_sdk_s_not_found(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as raised:
        openai.chat.completions.create(model="nobody", messages=ASKED)

    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert raised.value.request_id


def test_a_wrong_parameter_is_the_sdk_s_bad_request_before_the_stream(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as raised:
        openai.chat.completions.create(model="demo", messages=ASKED, top_logprobs=-1, logprobs=True, stream=True)

    assert raised.value.param == "top_logprobs"
