from __future__ import annotations

import json

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseIncompleteEvent,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)

from tests.contract.questions import ANSWER, QUESTION, SCHEMA, SUPPORT_ANSWER

pytestmark = pytest.mark.engine


def test_a_question_is_answered(openai: OpenAI) -> None:
    response = openai.responses.create(model="demo", input=QUESTION)

    assert (response.output_text, response.status) == (ANSWER, "completed")
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


async def test_the_async_client_is_answered_too(async_openai: AsyncOpenAI) -> None:
    response = await async_openai.responses.create(model="demo:support", input=QUESTION)

    assert response.output_text == SUPPORT_ANSWER


def test_a_stream_s_events_come_in_order(openai: OpenAI) -> None:
    whole = openai.responses.create(model="demo", input=QUESTION)

    with openai.responses.create(model="demo", input=QUESTION, stream=True) as stream:
        events: list[ResponseStreamEvent] = list(stream)

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert isinstance(events[0], ResponseCreatedEvent)
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)) == ANSWER
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert last.response.output_text == ANSWER
    assert last.response.usage == whole.usage


async def test_the_async_client_streams(async_openai: AsyncOpenAI) -> None:
    stream = await async_openai.responses.create(model="support", input=QUESTION, stream=True)

    async with stream:
        said = [event.delta async for event in stream if isinstance(event, ResponseTextDeltaEvent)]

    assert "".join(said) == SUPPORT_ANSWER


def test_the_token_limit_ends_a_stream_as_incomplete(openai: OpenAI) -> None:
    with openai.responses.create(model="demo", input=QUESTION, max_output_tokens=3, stream=True) as stream:
        last = list(stream)[-1]

    assert isinstance(last, ResponseIncompleteEvent)
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_a_json_schema_is_kept_to(openai: OpenAI) -> None:
    response = openai.responses.create(
        model="demo",
        input=QUESTION,
        max_output_tokens=200,
        text={"format": {"type": "json_schema", "name": "hours", "schema": SCHEMA, "strict": True}},
    )

    assert json.loads(response.output_text).keys() == {"open", "days"}


def test_instructions_and_metadata_come_back(openai: OpenAI) -> None:
    response = openai.responses.create(
        model="demo", input=[{"role": "user", "content": QUESTION}], instructions="Be brief.", metadata={"trace": "1"}
    )

    assert (response.instructions, response.metadata) == ("Be brief.", {"trace": "1"})


def test_an_unknown_previous_response_is_a_bad_request(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as raised:
        openai.responses.create(model="demo", input=QUESTION, previous_response_id="resp_nobody")

    assert (raised.value.code, raised.value.param) == ("previous_response_not_found", "previous_response_id")
