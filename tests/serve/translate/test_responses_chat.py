import copy
import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.sse import Splitter, parse
from serve.translate.translator import Incomplete

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
choosy = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
NOW = 1_800_000_005.5
CREATED = 1_800_000_000
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
ASKED: Json = {"model": "m", "input": "hi"}


def counted() -> Callable[[str], str]:
    numbers = itertools.count()
    return lambda prefix: f"{prefix}{next(numbers)}"


def translator() -> ResponsesToChat:
    return ResponsesToChat(clock=lambda: NOW, new_id=counted())


def request(**fields: Any) -> Json:
    return translator().request({**ASKED, **fields})


def messages(*items: Json) -> list[Json]:
    return list(request(input=list(items))["messages"])


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param
    assert caught.value.param in caught.value.message
    return caught.value.param


def answer(finish_reason: str = "stop", **message: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "m-2026",
        "choices": [choice],
        "usage": USAGE,
    }


def tool_call(id_: str = "call_1", name: str = "f", arguments: str = "{}") -> Json:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def response(said: Json, **fields: Any) -> Json:
    body = translator().response(said, {**ASKED, **fields})
    Response.model_validate_json(json.dumps(body), strict=True)
    return body


def chunk(delta: Json | None = None, finish_reason: str | None = None, **fields: Any) -> Json:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": "m-2026",
        "choices": choices,
        **fields,
    }


def fragment(index: int, arguments: str | None = None, **fields: Any) -> Json:
    name = fields.pop("name", None)
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function, **fields}]}


def streamed(*chunks: Json, **fields: Any) -> bytes:
    stream = translator().stream({**ASKED, "stream": True, **fields})
    return b"".join(stream.feed(one) for one in chunks) + stream.finish()


def events(raw: bytes) -> list[Json]:
    """Every event, each whole, valid by the SDK, named as its type, and numbered."""
    splitter = Splitter(limit=0)
    found = []
    for number, block in enumerate(splitter.feed(raw)):
        event = parse(block)
        assert event.data is not None
        EVENTS.validate_json(event.data, strict=True)
        payload = json.loads(event.data)
        assert payload["type"] == event.name
        assert payload["sequence_number"] == number
        found.append(payload)
    return found


def names(found: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def added_up(found: list[Json]) -> list[Json]:
    """The output, from the deltas alone; one item is open at a time, in the order of `output_index`."""
    items: list[Json] = []
    for event in found:
        name = event["type"].removeprefix("response.")
        if name == "output_item.added":
            items.append(event["item"])
        if "output_index" in event:
            assert event["output_index"] == len(items) - 1
        if "item_id" in event:
            assert event["item_id"] == items[-1]["id"]
        if name == "output_item.done":
            assert event["item"] == items[-1] | {"status": event["item"]["status"]}
            items[-1] = event["item"]
        elif "content_index" in event:
            add_to_part(items[-1]["content"], event, name)
        elif name == "function_call_arguments.delta":
            items[-1]["arguments"] += event["delta"]
        elif name == "function_call_arguments.done":
            assert event["arguments"] == items[-1]["arguments"]
    return items


def add_to_part(content: list[Json], event: Json, name: str) -> None:
    if name == "content_part.added":
        content.append(event["part"])
    assert event["content_index"] == len(content) - 1
    part = content[-1]
    key = "refusal" if part["type"] == "refusal" else "text"
    if name == "content_part.done":
        assert event["part"] == part
    elif name.endswith(".delta"):
        part[key] += event["delta"]
    elif name.endswith(".done"):
        assert event[key] == part[key]


# The request


def test_the_provider_is_asked_at_its_chat_endpoint() -> None:
    assert translator().path == "/v1/chat/completions"


def test_the_least_request() -> None:
    assert request() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_instructions_come_first() -> None:
    assert request(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_fields_of_both_apis_are_carried_as_they_are() -> None:
    same = {
        "temperature": 0.5,
        "top_p": 1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "metadata": {"a": "b"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "flex",
    }
    assert request(**same) == request() | same


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "high"}}, {"verbosity": "high"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
    ],
)
def test_fields_that_the_chat_api_calls_otherwise(asked: Json, said: Json) -> None:
    assert request(**asked) == request() | said


@pytest.mark.parametrize(
    "asked",
    [
        {"store": True},
        {"store": False},
        {"background": False},
        {"truncation": "disabled"},
        {"top_logprobs": 0},
        {"include": ["reasoning.encrypted_content"]},
        {"reasoning": {"summary": "auto", "generate_summary": "detailed"}},
        {"stream_options": {"include_obfuscation": True}},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        dict.fromkeys(["previous_response_id", "conversation", "prompt", "tools", "text", "metadata", "unheard_of"]),
    ],
)
def test_fields_that_change_nothing(asked: Json) -> None:
    assert request(**asked) == request()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}, "include[1]"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(asked: Json, field: str) -> None:
    assert refused(**asked) == field


def test_a_function_is_carried_with_its_strictness() -> None:
    schema = {"type": "object", "properties": {}}
    tool = {"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True}
    bare = {"type": "function", "name": "g", "parameters": None}
    assert request(tools=[tool, bare], tool_choice="required", parallel_tool_calls=False) == request() | {
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": schema, "strict": True},
            },
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


def test_a_named_function_may_be_asked_for() -> None:
    asked = request(tools=[{"type": "function", "name": "f"}], tool_choice={"type": "function", "name": "f"})
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
        ({"tool_choice": "any"}, "tool_choice"),
    ],
)
def test_other_tools_are_refused_by_name(asked: Json, field: str) -> None:
    assert refused(**asked) == field


# Its input


@pytest.mark.parametrize(
    ("role", "chat_role"),
    [("user", "user"), ("assistant", "assistant"), ("system", "system"), ("developer", "system")],
)
def test_a_message_keeps_its_role_but_for_developer(role: str, chat_role: str) -> None:
    assert messages({"role": role, "content": "x"}) == [{"role": chat_role, "content": "x"}]


def test_the_parts_of_a_users_message() -> None:
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low", "file_id": None},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
    ]
    assert messages({"type": "message", "role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
    ]


def test_a_single_text_is_sent_as_a_string() -> None:
    assert messages({"role": "user", "content": [{"type": "input_text", "text": "x"}]})[0]["content"] == "x"


def test_an_earlier_answer_can_be_sent_back_as_it_came() -> None:
    call = tool_call(arguments='{"a":1}')
    earlier = response(answer("tool_calls", reasoning="hm", content="Wait.", tool_calls=[call]))["output"]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    assert messages(*earlier, result) == [
        {"role": "assistant", "content": "Wait.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]


def test_an_earlier_refusal_is_sent_back_as_one() -> None:
    earlier = response(answer(content=None, refusal="No."))["output"]
    assert messages(*earlier) == [{"role": "assistant", "content": None, "refusal": "No."}]


def test_calls_of_one_turn_are_one_message_and_the_next_turns_another() -> None:
    def call(id_: str) -> Json:
        return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}

    def output(id_: str) -> Json:
        return {"type": "function_call_output", "call_id": id_, "output": [{"type": "input_text", "text": id_}]}

    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert messages(call("a"), thought, call("b"), output("a"), output("b"), call("c"), output("c")) == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call("a"), tool_call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "a"},
        {"role": "tool", "tool_call_id": "b", "content": "b"},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("c")]},
        {"role": "tool", "tool_call_id": "c", "content": "c"},
    ]


def test_text_after_a_call_does_not_part_it_from_its_output() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "1"}
    said = {"role": "assistant", "content": "One moment."}
    assert messages(call, said, output) == [
        {"role": "assistant", "content": "One moment.", "tool_calls": [tool_call("a")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type"),
        ({"type": "web_search_call", "id": "ws_1"}, "input[0].type"),
        ({"id": "msg_1"}, "input[0].type"),
        ("hi", "input[0]"),
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": "x", "name": "n"}, "input[0].name"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[0].content[0].file_id"),
        ({"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}, "input[0].content[0].file_url"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input[0].content[0].type"),
        ({"role": "system", "content": [{"type": "input_image", "image_url": "u"}]}, "input[0].content[0].type"),
        ({"type": "function_call", "call_id": "a", "name": "f"}, "input[0].arguments"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "a"}, "input[0].output"),
        (
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": "u"}]},
            "input[0].output[0].type",
        ),
    ],
)
def test_items_that_cannot_be_carried_are_refused_by_place(item: Any, field: str) -> None:
    assert refused(input=[item]) == field


LEAF = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 2) | st.text(max_size=3)
WORD = st.sampled_from([
    "message", "function_call", "function_call_output", "reasoning", "item_reference", "function", "input_text",
    "output_text", "refusal", "input_image", "input_file", "user", "assistant", "developer", "text", "json_schema",
    "json_object", "auto", "required", "low", "detailed",
])  # fmt: skip
FIELD = st.sampled_from([
    "type", "role", "content", "text", "refusal", "image_url", "file_data", "filename", "detail", "call_id", "name",
    "arguments", "output", "id", "status", "summary", "parameters", "strict", "description", "format", "schema",
    "verbosity", "effort", "include_obfuscation",
])  # fmt: skip
ANY_JSON = st.recursive(
    LEAF | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
TOP = st.sampled_from([
    "instructions", "tools", "tool_choice", "text", "reasoning", "include", "store", "stream", "stream_options",
    "metadata", "temperature", "truncation", "max_output_tokens", "parallel_tool_calls", "user", "top_logprobs",
    "service_tier", "conversation", "surprise",
])  # fmt: skip
TEXT_PART = st.fixed_dictionaries({"type": st.sampled_from(["input_text", "output_text"]), "text": st.text(max_size=5)})
ITEM = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "developer"]),
            "content": st.text(max_size=5) | st.lists(TEXT_PART | ANY_JSON, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": st.text(), "name": st.text(), "arguments": st.text() | ANY_JSON}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("function_call_output"),
            "call_id": st.text(),
            "output": st.text() | st.lists(TEXT_PART, max_size=2) | ANY_JSON,
        }
    ),
    ANY_JSON,
)
SENSIBLE: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "instructions": st.text(max_size=5),
        "tools": st.lists(
            st.fixed_dictionaries(
                {"type": st.just("function"), "name": st.text(max_size=5)},
                optional={
                    "parameters": st.dictionaries(st.text(max_size=3), LEAF),
                    "strict": st.none() | st.booleans(),
                },
            ),
            max_size=2,
        ),
        "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "name": "f"}, None]),
        "text": st.sampled_from(
            [
                None,
                {},
                {"format": None, "verbosity": "low"},
                {"format": {"type": "json_object"}},
                {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": None}},
            ]
        ),
        "reasoning": st.sampled_from([None, {}, {"effort": "high", "summary": None}, {"summary": "concise"}]),
        "metadata": st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
        "temperature": st.none() | st.floats(0, 2) | st.integers(0, 2),
        "max_output_tokens": st.none() | st.integers(1, 9),
        "stream": st.none() | st.booleans(),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> Json:
    body: Json = draw(SENSIBLE)
    body["input"] = draw(st.text() | st.lists(ITEM, max_size=4))
    if draw(st.booleans()):
        body |= draw(st.dictionaries(TOP, ANY_JSON, max_size=2))
    return body


def outcome(body: Json) -> tuple[Json, InvalidRequest | None]:
    try:
        return translator().request(body), None
    except InvalidRequest as error:
        return {}, error


@choosy
@given(requests())
def test_a_request_is_translated_or_refused_and_never_changed(body: Json) -> None:
    before = copy.deepcopy(body)
    chat, error = outcome(body)
    assert body == before
    if error is not None:
        assert error.param
        assert error.param in error.message
    else:
        assert {message["role"] for message in chat["messages"]} <= {"system", "user", "assistant", "tool"}
        assert None not in chat.values()


@choosy
@given(requests())
def test_whatever_was_accepted_is_repeated_in_a_valid_response(body: Json) -> None:
    assume(outcome(body)[1] is None)
    before = copy.deepcopy(body)
    said = translator().response(answer(content="x"), body)
    Response.model_validate_json(json.dumps(said), strict=True)
    assert body == before


# The answer


def test_a_text() -> None:
    body = response(answer(content="Hello."))
    assert body["output"] == [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
        }
    ]
    assert body["status"] == "completed"
    assert (body["id"], body["object"], body["model"]) == ("resp_0", "response", "m-2026")
    assert (body["created_at"], body["completed_at"]) == (CREATED, int(NOW))
    assert body["error"] is None
    assert body["incomplete_details"] is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_a_text_and_calls_come_in_this_order(field: str) -> None:
    calls = [tool_call("a", "f", '{"x":1}'), tool_call("b", "g")]
    body = response(answer("tool_calls", content="Wait.", tool_calls=calls, **{field: "hm"}))
    reasoning, message, first, second = body["output"]
    assert reasoning == {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
        "status": "completed",
    }
    assert message["content"][0]["text"] == "Wait."
    assert first == {
        "id": "fc_3",
        "type": "function_call",
        "call_id": "a",
        "name": "f",
        "arguments": '{"x":1}',
        "status": "completed",
    }
    assert (second["id"], second["call_id"], second["name"]) == ("fc_4", "b", "g")
    assert body["status"] == "completed"


def test_a_refusal_is_a_part_of_the_message() -> None:
    (message,) = response(answer(content=None, refusal="No."))["output"]
    assert message["content"] == [{"type": "refusal", "refusal": "No."}]


def test_an_answer_that_says_nothing_has_no_output() -> None:
    assert response(answer(content=""))["output"] == []


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls", "function_call", "eos"])
def test_any_other_reason_to_stop_is_the_end_of_a_whole_answer(finish_reason: str) -> None:
    body = response(answer(finish_reason, content="He"))
    assert (body["status"], body["incomplete_details"]) == ("completed", None)


@pytest.mark.parametrize(
    ("finish_reason", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_cut_short_is_incomplete_and_so_is_its_last_item(finish_reason: str, reason: str) -> None:
    body = response(answer(finish_reason, reasoning="hm", content="He"))
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": reason}
    assert body["completed_at"] is None
    assert [item["status"] for item in body["output"]] == ["completed", "incomplete"]


@pytest.mark.parametrize("arguments", ["", '{"a": "b'])
def test_a_call_that_the_length_limit_cut_off_is_incomplete_and_has_what_came_of_it(arguments: str) -> None:
    calls = [tool_call("a", arguments='{"x":1}'), tool_call("b", arguments=arguments)]
    body = response(answer("length", tool_calls=calls))
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [(item["arguments"], item["status"]) for item in body["output"]] == [
        ('{"x":1}', "completed"),
        (arguments, "incomplete"),
    ]


def test_a_call_cut_off_is_incomplete_whatever_comes_after_it() -> None:
    chunks = [chunk(fragment(0, '{"a"', id="a", name="f")), chunk({"content": "B"})]
    chunks.append(chunk(fragment(1, "{}", id="b", name="g")))
    found = events(streamed(*chunks, chunk({}, "length")))
    assert [item["status"] for item in found[-1]["response"]["output"]] == ["incomplete", "completed", "incomplete"]
    assert found[-1]["response"]["output"] == added_up(found)


def test_tokens_are_counted() -> None:
    assert response(answer(content="x"))["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }


def test_tokens_that_the_provider_does_not_count() -> None:
    said = answer(content="x") | {"usage": {"prompt_tokens": 2, "completion_tokens": 3}}
    usage = response(said)["usage"]
    assert usage["total_tokens"] == 5
    assert usage["input_tokens_details"]["cached_tokens"] == 0
    assert response(said | {"usage": None})["usage"] is None


# What ResponseResource.json of https://github.com/openresponses/openresponses requires.
RESPONSE_FIELDS = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "instructions",
    "previous_response_id", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls",
    "text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning",
    "user", "usage", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata",
    "safety_identifier", "prompt_cache_key",
}  # fmt: skip


def test_what_was_not_asked_for_has_the_apis_defaults() -> None:
    body = response(answer(content="x"))
    assert set(body) == RESPONSE_FIELDS
    defaults = {
        "temperature": 1.0,
        "top_p": 1.0,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "truncation": "disabled",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": None, "summary": None},
        "metadata": {},
        "service_tier": "default",
        "instructions": None,
        "max_output_tokens": None,
    }
    assert {name: body[name] for name in defaults} == defaults


def test_what_was_asked_for_is_repeated() -> None:
    asked: Json = {
        "instructions": "Be brief.",
        "temperature": 0.1,
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "user": "u",
        "tools": [{"type": "function", "name": "f", "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    body = response(answer(content="x"), **asked)
    tool = {"type": "function", "name": "f", "strict": True, "description": None, "parameters": None}
    assert {name: body[name] for name in asked} == asked | {"tools": [tool]}


def test_a_schema_is_repeated_with_its_name() -> None:
    asked = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    body = response(answer(content="{}"), text={"format": asked})
    assert body["text"]["format"] == asked | {"strict": False, "description": None}


def test_nothing_is_stored_whatever_was_asked() -> None:
    assert response(answer(content="x"), store=True)["store"] is False


def test_the_tier_that_served_it_is_told_if_the_api_knows_it() -> None:
    assert response(answer(content="x") | {"service_tier": "flex"})["service_tier"] == "flex"
    assert response(answer(content="x") | {"service_tier": "on_demand"})["service_tier"] == "default"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"error": {"message": "x"}},
        {"choices": []},
        {"choices": [5]},
        {"choices": [{"finish_reason": "stop"}]},
        answer("stop", content=5),
        answer("error", content="x"),
        answer("abort", content="x"),
        answer(5, content="x"),  # type: ignore[arg-type]
        {"choices": [{"message": {"content": "x"}}]},
        answer("tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
        answer("tool_calls", tool_calls=[{"id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}]),
        answer("tool_calls", tool_calls=5),
        answer("tool_calls", tool_calls=[tool_call(arguments={})]),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_answer_is_incomplete(said: Json) -> None:
    with pytest.raises(Incomplete):
        translator().response(said, ASKED)


# The stream


def test_a_streamed_text() -> None:
    found = events(
        streamed(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Hel"}),
            chunk({"content": "lo."}),
            chunk({}, "stop"),
            chunk(usage=USAGE),
        )
    )
    assert names(found) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert found[0]["response"]["usage"] is None
    assert found[2]["item"] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    assert [event["delta"] for event in found[4:6]] == ["Hel", "lo."]
    assert found[6]["text"] == "Hello."
    assert found[-1]["response"] == response(answer(content="Hello."))


def test_the_end_waits_for_the_usage() -> None:
    stream = translator().stream(ASKED)
    stream.feed(chunk({"content": "x"}))
    assert stream.feed(chunk({}, "stop")) == b""
    assert stream.feed(chunk(usage=USAGE)) == b""
    assert events_after(stream.finish())[-1] == "response.completed"


def events_after(raw: bytes) -> list[str | None]:
    return [parse(block).name for block in Splitter(limit=0).feed(raw)]


def test_an_event_is_a_name_and_one_line_of_json() -> None:
    first, second = translator().stream(ASKED).feed(chunk({})).split(b"\n\n")[:2]
    assert first.startswith(b'event: response.created\ndata: {"type":"response.created","sequence_number":0,')
    assert second.startswith(b"event: response.in_progress\ndata: {")


def test_streamed_reasoning_a_text_and_a_refusal() -> None:
    found = events(
        streamed(
            chunk({"reasoning_content": "hm"}),
            chunk({"content": "I"}),
            chunk({"refusal": "No."}),
            chunk({}, "stop"),
        )
    )
    assert names(found)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
    ]


def test_a_streamed_call() -> None:
    found = events(
        streamed(
            chunk(fragment(0, "", id="call_1", type="function", name="f")),
            chunk(fragment(0, '{"a"')),
            chunk(fragment(0, ":1}")),
            chunk({}, "tool_calls"),
        )
    )
    assert names(found)[2:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert (found[2]["item"]["name"], found[2]["item"]["call_id"], found[2]["item"]["arguments"]) == ("f", "call_1", "")
    assert found[5]["arguments"] == '{"a":1}'


def test_a_call_is_done_as_soon_as_the_next_begins_after_it() -> None:
    stream = translator().stream(ASKED)
    stream.feed(chunk(fragment(0, '{"a":1}', id="a", name="f")))
    names_ = events_after(stream.feed(chunk(fragment(1, '{"b"', id="b", name="g"))))
    assert names_ == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
    ]


def test_a_call_between_whose_pieces_another_comes_stays_open_and_the_other_waits() -> None:
    stream = translator().stream(ASKED)
    stream.feed(chunk(fragment(0, '{"a"', id="a", name="f")))
    assert stream.feed(chunk(fragment(1, '{"b":2}', id="b", name="g"))) == b""
    names_ = events_after(stream.feed(chunk(fragment(0, ":1}"))))
    assert names_ == [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
    ]


def test_a_call_is_not_shown_before_its_name_is_known() -> None:
    stream = translator().stream(ASKED)
    stream.feed(chunk({}))
    assert stream.feed(chunk(fragment(0, "{", id="a"))) == b""
    names_ = events_after(stream.feed(chunk(fragment(0, "}", name="f"))))
    assert names_ == ["response.output_item.added", *["response.function_call_arguments.delta"] * 2]


def test_text_after_a_call_waits_and_makes_a_message_of_its_own() -> None:
    found = events(
        streamed(
            chunk({"content": "A"}),
            chunk(fragment(0, '{"a"', id="a", name="f")),
            chunk({"content": "B"}),
            chunk(fragment(0, ":1}")),
            chunk({}, "tool_calls"),
        )
    )
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert output[1]["arguments"] == '{"a":1}'
    assert output == added_up(found)


def test_a_stream_cut_short_ends_incomplete() -> None:
    last = events(streamed(chunk({"content": "He"}), chunk({}, "length")))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_it_is_not_completed_before_it_was_created_whatever_the_providers_clock() -> None:
    last = events(streamed(chunk({}, "stop", created=int(NOW) + 60)))[-1]
    assert last["response"]["completed_at"] == last["response"]["created_at"] == int(NOW) + 60


def test_blanks_after_a_calls_end_are_left_out() -> None:
    found = events(
        streamed(
            chunk(fragment(0, "{}", id="a", name="f")),
            chunk(fragment(1, "{}", id="b", name="g")),
            chunk(fragment(0, "\n")),
            chunk({}, "tool_calls"),
        )
    )
    assert [item["arguments"] for item in added_up(found)] == ["{}", "{}"]


def test_arguments_nested_too_deep_to_read_are_passed_on() -> None:
    deep = '{"a":' * 20_000 + "0" + "}" * 20_000
    calls = [tool_call("a", "f", deep), tool_call("b", "g")]
    assert response(answer("tool_calls", tool_calls=calls))["output"][0]["arguments"] == deep


def test_a_first_chunk_may_know_neither_model_nor_time() -> None:
    found = events(streamed(chunk(model="", created=0), chunk({"content": "x"}, "stop")))
    assert found[0]["response"]["model"] == "m"
    assert found[0]["response"]["created_at"] == int(NOW)


@pytest.mark.parametrize(
    "chunks",
    [
        [{}],
        [{"error": {"message": "x"}}],
        [chunk({"content": 5})],
        [chunk({}, "error")],
        [{"choices": ["x"]}],
        [chunk({"tool_calls": 5})],
        [chunk({"tool_calls": [{"id": "a", "function": {"name": "f"}}]})],
        [chunk(fragment(0, "{}", name="f"))],
        [chunk(fragment(0, "{}", id="a"))],
        [chunk(fragment(0, "{}", id="a", name="f")), chunk(fragment(0, "{}", id="b", name="f"))],
        [
            chunk(fragment(0, "{}", id="a", name="f")),
            chunk(fragment(1, "{}", id="b", name="f")),
            chunk(fragment(0, "{}")),
        ],
    ],
)
def test_a_stream_that_makes_no_sense_is_incomplete(chunks: list[Json]) -> None:
    with pytest.raises(Incomplete):
        streamed(*chunks, chunk({}, "stop"))


@pytest.mark.parametrize("chunks", [[], [chunk({})], [chunk({"content": "x"}), chunk(usage=USAGE)]])
def test_a_stream_that_does_not_say_why_it_ended_is_incomplete(chunks: list[Json]) -> None:
    with pytest.raises(Incomplete, match="finish_reason"):
        streamed(*chunks)


def test_the_sdk_reads_a_stream_to_its_end() -> None:
    raw = streamed(
        chunk({"reasoning": "hm"}),
        chunk({"content": "Hello."}),
        chunk(fragment(0, '{"a":1}', id="a", name="f")),
        chunk({}, "tool_calls"),
        chunk(usage=USAGE),
    )
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=raw))
    with (
        OpenAI(api_key="k", base_url="http://x/v1", http_client=httpx2.Client(transport=transport)) as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        final = stream.get_final_response()
    assert final.output_text == "Hello."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


ARGUMENTS = st.one_of(
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6) | st.lists(st.none()), max_size=3).map(
        json.dumps
    ),
    st.text(max_size=6).filter(lambda text: not text.lstrip().startswith("{")),
)
SAID = st.none() | st.text(max_size=12)


def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]


@st.composite
def answers_both_ways(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """A whole answer, and chunks of it: calls begin in order, and then their pieces come in any."""
    said = {
        name: draw(SAID) for name in (draw(st.sampled_from(["reasoning", "reasoning_content"])), "content", "refusal")
    }
    made = draw(st.lists(st.tuples(st.text(min_size=1, max_size=4), ARGUMENTS), max_size=4))
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    if reason == "length":
        made = [(name, arguments[: draw(st.integers(0, len(arguments)))]) for name, arguments in made]
    calls = [tool_call(f"call_{i}", name, arguments) for i, (name, arguments) in enumerate(made)]
    deltas: list[Json] = [{name: piece} for name, text in said.items() if text is not None for piece in cut(draw, text)]
    rest: dict[int, list[Json]] = {}
    for index, call in enumerate(calls):
        first, *more = cut(draw, call["function"]["arguments"])
        deltas.append(fragment(index, first, id=call["id"], type="function", name=call["function"]["name"]))
        rest[index] = [fragment(index, piece) for piece in more]
        for _ in range(draw(st.integers(0, 6))):
            deltas.extend(one_of(draw, rest))
    while any(rest.values()):
        deltas.extend(one_of(draw, rest))
    usage = draw(st.none() | st.just(USAGE))
    whole = answer(reason, **said, tool_calls=calls) | {"usage": usage}
    return whole, [*(chunk(delta) for delta in deltas), chunk({}, reason), chunk(usage=usage)]


def one_of(draw: st.DrawFn, rest: dict[int, list[Json]]) -> list[Json]:
    left = [index for index, pieces in rest.items() if pieces]
    return [rest[draw(st.sampled_from(left))].pop(0)] if left else []


@choosy
@given(answers_both_ways())
def test_a_stream_adds_up_to_the_whole_answer(both: tuple[Json, list[Json]]) -> None:
    whole, chunks = both
    found = events(streamed(*chunks))
    expected = response(whole)
    assert found[-1]["response"] == expected
    assert added_up(found) == expected["output"]


CHUNK_FIELD = st.sampled_from([
    "choices", "delta", "message", "finish_reason", "content", "reasoning", "tool_calls", "function", "index", "id",
    "name", "arguments", "usage", "service_tier", "created", "model", "prompt_tokens", "prompt_tokens_details",
])  # fmt: skip
ODD_JSON = st.recursive(
    LEAF | st.sampled_from(["stop", "length"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CHUNK_FIELD, inner, max_size=4),
    max_leaves=12,
)
ODD_MESSAGE = st.dictionaries(CHUNK_FIELD, ODD_JSON, max_size=4)
ODD_CHOICE = st.fixed_dictionaries(
    {"finish_reason": st.just("stop") | ODD_JSON, "message": ODD_MESSAGE, "delta": ODD_MESSAGE}
)
ODD_ANSWER = st.builds(
    lambda choice, more: {"choices": [choice], **more},
    ODD_CHOICE | ODD_JSON,
    st.dictionaries(CHUNK_FIELD, ODD_JSON, max_size=3),
)


def answered(said: Json) -> Json | None:
    try:
        return translator().response(said, ASKED)
    except Incomplete:
        return None


def streamed_or_not(chunks: list[Json]) -> bytes:
    try:
        return streamed(*chunks)
    except Incomplete:
        return b""


@choosy
@given(ODD_ANSWER)
def test_an_odd_answer_is_valid_or_incomplete(said: Json) -> None:
    body = answered(said)
    if body is not None:
        Response.model_validate_json(json.dumps(body), strict=True)


@choosy
@given(st.lists(ODD_ANSWER, max_size=3))
def test_an_odd_stream_is_valid_or_incomplete(chunks: list[Json]) -> None:
    events(streamed_or_not(chunks))
