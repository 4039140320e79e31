import copy
from typing import Any

import anthropic.types
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from serve.schemas import Json
from serve.translate.vllm_bodies import (
    MENDS,
    Aborted,
    mend_chat,
    mend_completion,
    mend_message,
    mend_response,
)
from tests.serve.translate.recorded import recorded

BODIES = recorded("bodies")
SDK_TYPES: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/responses": Response,
    "/v1/messages": anthropic.types.Message,
}


def mended(name: str, request: Json | None = None) -> Json:
    case = copy.deepcopy(BODIES[name])
    MENDS[case["path"]](case["body"], request or {})
    return dict(case["body"])


@pytest.mark.parametrize("name", BODIES)
def test_the_sdks_types_accept_it(name: str) -> None:
    SDK_TYPES[BODIES[name]["path"]].model_validate(mended(name))


@pytest.mark.parametrize("name", BODIES)
def test_mending_twice_changes_nothing(name: str) -> None:
    once = mended(name)
    twice = copy.deepcopy(once)
    MENDS[BODIES[name]["path"]](twice, {})
    assert twice == once


def test_a_chat_body_has_no_null_that_the_schema_forbids() -> None:
    body = mended("chat")
    (choice,) = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "}y",
        "refusal": None,
        "annotations": [],
        "audio": None,
    }
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert body["usage"] == {
        "prompt_tokens": 4,
        "total_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0, "created_cache_tokens": 0},
    }
    assert set(body) == {
        "id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"
    }  # fmt: skip


def test_chat_logprobs_have_both_lists() -> None:
    assert [choice["logprobs"]["refusal"] for choice in mended("chat_lp")["choices"]] == [None, None]


def test_tool_calls_stay_as_they_are() -> None:
    before = BODIES["chat_tool"]["body"]["choices"][0]["message"]["tool_calls"]
    assert mended("chat_tool")["choices"][0]["message"]["tool_calls"] == before
    assert mended("msg_tool")["content"] == BODIES["msg_tool"]["body"]["content"]


def test_a_completion_body_has_no_null_that_the_schema_forbids() -> None:
    body = mended("comp")
    assert body["choices"] == [{"index": 0, "text": "ay", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_a_message_says_that_nothing_stopped_it_and_nothing_is_cited() -> None:
    body = mended("msg")
    assert body["stop_sequence"] is None
    assert body["content"][0]["citations"] is None


# What ResponseResource.json of https://github.com/openresponses/openresponses requires.
RESPONSE_FIELDS = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "instructions",
    "previous_response_id", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls",
    "text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning",
    "user", "usage", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata",
    "safety_identifier", "prompt_cache_key",
}  # fmt: skip


@pytest.mark.parametrize("name", ["resp", "resp_full", "resp_tool", "resp_schema"])
def test_a_response_has_every_field_of_the_schema(name: str) -> None:
    body = mended(name)
    assert set(body) >= RESPONSE_FIELDS
    assert body["store"] is False
    assert isinstance(body["top_logprobs"], int)
    assert isinstance(body["metadata"], dict)


def test_a_response_is_plain_text_unless_it_says_otherwise() -> None:
    assert mended("resp")["text"] == {"format": {"type": "text"}}
    text_format = mended("resp_schema")["text"]["format"]
    assert set(text_format) == {"type", "name", "description", "schema", "strict"}
    assert text_format["strict"] is True


def test_only_a_completed_response_has_a_time_of_completion() -> None:
    assert mended("resp")["completed_at"] is None
    whole = mended("resp_schema")
    assert whole["completed_at"] >= whole["created_at"]


def test_a_response_repeats_the_requests_own_fields() -> None:
    body = mended("resp", {"prompt_cache_key": "k", "safety_identifier": "s"})
    assert (body["prompt_cache_key"], body["safety_identifier"]) == ("k", "s")
    assert mended("resp", {"prompt_cache_key": 5})["prompt_cache_key"] is None


def test_a_responses_items_have_no_null_that_the_schema_forbids() -> None:
    (call,) = mended("resp_tool")["output"]
    assert set(call) == {"arguments", "call_id", "name", "type", "id", "status"}
    (message,) = mended("resp_schema")["output"]
    assert message["content"][0]["logprobs"] == []
    (tool,) = mended("resp_tool")["tools"]
    assert set(tool) == {"name", "parameters", "strict", "type", "description"}


@pytest.mark.parametrize("mend", [mend_chat, mend_completion])
def test_finish_reasons_that_openai_does_not_know(mend: Any) -> None:
    body: Json = {"choices": [{"finish_reason": "repetition"}]}
    mend(body, {})
    assert body["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(Aborted):
        mend({"choices": [{"finish_reason": "abort"}]}, {})


@pytest.mark.parametrize("mend", [mend_chat, mend_completion, mend_message, mend_response])
@pytest.mark.parametrize(
    "body", [{}, {"choices": None}, {"choices": [None], "usage": 5, "output": {}, "tools": [1], "text": 7}]
)
def test_an_odd_body_is_survived(mend: Any, body: Json) -> None:
    mend(copy.deepcopy(body), {})
