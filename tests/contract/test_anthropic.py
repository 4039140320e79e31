from __future__ import annotations

import pytest
from anthropic import Anthropic, AsyncAnthropic, BadRequestError, NotFoundError
from anthropic.types import MessageParam

from tests.contract.questions import ANSWER, QUESTION, SUPPORT_ANSWER

pytestmark = pytest.mark.engine

ASKED: list[MessageParam] = [{"role": "user", "content": QUESTION}]


def test_a_question_is_answered(anthropic: Anthropic) -> None:
    message = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=100)

    (block,) = message.content
    assert block.type == "text"
    assert (block.text, message.stop_reason, message.role) == (ANSWER, "end_turn", "assistant")


async def test_the_async_client_is_answered_too(async_anthropic: AsyncAnthropic) -> None:
    message = await async_anthropic.messages.create(model="support", messages=ASKED, max_tokens=100)

    assert [block.text for block in message.content if block.type == "text"] == [SUPPORT_ANSWER]


def test_a_stream_says_the_same_with_the_same_usage(anthropic: Anthropic) -> None:
    whole = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=100)

    with anthropic.messages.stream(model="demo", messages=ASKED, max_tokens=100) as stream:
        said = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert said == ANSWER
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )


async def test_the_async_client_streams_raw_events(async_anthropic: AsyncAnthropic) -> None:
    stream = await async_anthropic.messages.create(model="demo", messages=ASKED, max_tokens=100, stream=True)

    async with stream:
        kinds = [event.type async for event in stream]

    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_system_prompt_and_content_blocks_are_taken(anthropic: Anthropic) -> None:
    message = anthropic.messages.create(
        model="demo",
        system="You are a helpful assistant.",
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        max_tokens=100,
    )

    assert [block.text for block in message.content if block.type == "text"] == [ANSWER]


def test_a_stop_sequence_is_named(anthropic: Anthropic) -> None:
    stop = ANSWER.split()[3]

    message = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=100, stop_sequences=[stop])

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)


def test_max_tokens_ends_the_answer_early(anthropic: Anthropic) -> None:
    message = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=3)

    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


def test_tokens_are_counted_as_they_are_billed(anthropic: Anthropic) -> None:
    counted = anthropic.messages.count_tokens(model="demo", messages=ASKED)
    message = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=1)

    assert counted.input_tokens == message.usage.input_tokens


def test_models_are_listed_in_anthropic_s_shape(anthropic: Anthropic) -> None:
    page = anthropic.models.list(limit=2)

    assert len(page.data) == 2
    assert page.has_more
    assert {"demo", "demo:support", "support"} <= {model.id for model in anthropic.models.list(limit=3)}
    assert anthropic.models.retrieve("demo:support").type == "model"


async def test_the_async_client_lists_them_too(async_anthropic: AsyncAnthropic) -> None:
    assert "demo" in [model.id async for model in async_anthropic.models.list()]


def test_an_unknown_model_is_the_sdk_s_not_found(anthropic: Anthropic) -> None:
    with pytest.raises(NotFoundError) as raised:
        anthropic.messages.create(model="nobody", messages=ASKED, max_tokens=1)

    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == "not_found_error"


def test_a_wrong_parameter_is_the_sdk_s_bad_request_before_the_stream(anthropic: Anthropic) -> None:
    with (
        pytest.raises(BadRequestError),
        anthropic.messages.stream(model="demo", messages=ASKED, max_tokens=1, extra_body={"temperature": -1}) as stream,
    ):
        stream.get_final_message()
