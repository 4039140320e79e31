from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.anthropic_openai import MessagesToChat
from serve.translate.sse import Splitter, parse
from serve.translate.translator import Incomplete

TRANSLATOR = MessagesToChat()
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
REQUEST: Json = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
TOOL: Json = {"name": "look", "input_schema": {"type": "object"}}
CALL: Json = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "ä"}}
PNG: Json = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
PDF: Json = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}


def asked(**fields: Any) -> Json:
    return TRANSLATOR.request({**REQUEST, **fields})


def said(*turns: tuple[str, Any]) -> list[Json]:
    """The provider's messages for these turns, and a last one that makes the request whole."""
    messages = [{"role": role, "content": content} for role, content in turns]
    *translated, last = asked(messages=[*messages, {"role": "user", "content": "last"}])["messages"]
    assert last == {"role": "user", "content": "last"}
    return list(translated)


def block(**fields: Any) -> list[tuple[str, Any]]:
    return [("user", [fields])]


def refused(code: str | None = "unsupported_parameter", **fields: Any) -> str | None:
    """The field that the refusal names."""
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert caught.value.code == code
    assert caught.value.param is not None
    assert f"'{caught.value.param}'" in caught.value.message
    assert caught.value.message.endswith(".")
    return caught.value.param


def refused_block(**fields: Any) -> str | None:
    param = refused(messages=[{"role": "user", "content": [fields]}])
    assert param is not None
    return param.removeprefix("messages[0].content[0].")


# The request.


def test_a_plain_request_needs_little() -> None:
    assert TRANSLATOR.path == "/v1/chat/completions"
    assert asked() == {
        "model": "m",
        "max_completion_tokens": 10,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_an_older_server_has_another_name_for_the_length() -> None:
    translated = MessagesToChat(length_field="max_tokens").request(REQUEST)
    assert translated["max_tokens"] == 10
    assert "max_completion_tokens" not in translated


@pytest.mark.parametrize(
    ("fields", "carried"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"metadata": {"user_id": "u"}}, {"safety_identifier": "u"}),
        ({"metadata": {"user_id": None}}, {}),
        ({"metadata": {"user_id": "u" * 128}}, {"safety_identifier": "u" * 128}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"speed": "standard"}, {}),
        ({"cache_control": {"type": "ephemeral"}}, {}),
        ({"top_k": None, "container": None, "anything": None, "system": None, "tools": None}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 16384}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {"reasoning_effort": "high"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": None, "format": None}}, {}),
        ({"mcp_servers": [], "context_management": None}, {}),
        ({"tools": []}, {}),
        ({"tools": [], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {}),
    ],
)
def test_a_setting_is_carried_over(fields: Json, carried: Json) -> None:
    assert asked(**fields) == {**asked(), **carried}


def test_a_user_id_too_long_for_openai_goes_as_its_digest() -> None:
    first, again, other = (asked(metadata={"user_id": user * 200})["safety_identifier"] for user in "aab")
    assert first == again != other
    assert len(first) == 64


def test_structured_output_is_strict() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert asked(output_config={"format": {"type": "json_schema", "schema": schema}})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize("system", ["Be\nbrief", [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    assert asked(system=system)["messages"] == [
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize("system", ["", []])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert asked(system=system) == asked()


def test_a_system_turn_stays_in_its_place() -> None:
    turns = said(("user", "a"), ("system", [{"type": "text", "text": "b"}]))
    assert [turn["role"] for turn in turns] == ["user", "system"]


def test_text_blocks_become_one_string() -> None:
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    assert said(("user", blocks), ("assistant", blocks)) == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "a\nb"},
    ]


def test_text_beside_an_image_stays_in_its_place() -> None:
    blocks = [
        {"type": "text", "text": "a"},
        {"type": "image", "source": PNG, "transformations": {}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "text", "text": "b"},
    ]
    assert said(("user", blocks))[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "text", "text": "b"},
    ]


def test_a_pdf_is_a_file() -> None:
    blocks = [
        {"type": "document", "source": PDF, "title": "a.pdf", "context": "why", "citations": {"enabled": False}},
        {"type": "document", "source": PDF},
    ]
    assert said(("user", blocks))[0]["content"] == [
        {"type": "text", "text": "why"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
    ]


def test_a_text_document_is_text_under_its_title() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "words"}
    document = block(type="document", source=source, title="Title", context="why")
    assert said(*document) == [{"role": "user", "content": "Title\nwhy\nwords"}]


def test_tool_calls_go_with_the_text_of_their_turn() -> None:
    function = {"name": "look", "arguments": '{"at": "ä"}'}
    call = {"id": "t1", "type": "function", "function": function}
    direct = {**CALL, "caller": {"type": "direct"}}
    assert said(("assistant", [{"type": "text", "text": "See"}, CALL]), ("assistant", [direct])) == [
        {"role": "assistant", "content": "See", "tool_calls": [call]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


def test_thinking_of_earlier_turns_is_left_out() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    assert said(("assistant", [thinking, redacted, {"type": "text", "text": "a"}]), ("assistant", [thinking])) == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": ""},
    ]


def test_tool_results_come_before_the_rest_of_their_turn() -> None:
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    blocks = [
        {"type": "text", "text": "And now?"},
        {"type": "tool_result", "tool_use_id": "t1", "content": texts},
        {"type": "tool_result", "tool_use_id": "t2", "content": "gone", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t3"},
    ]
    results = [
        {"role": "tool", "tool_call_id": "t1", "content": "a\nb"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: gone"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
    ]
    assert said(("user", blocks)) == [*results, {"role": "user", "content": "And now?"}]
    assert said(("user", blocks[1:])) == results


def test_tools_are_functions() -> None:
    tools = [
        {**TOOL, "type": "custom", "description": "Looks", "strict": True, "cache_control": {"type": "ephemeral"}},
        {**TOOL, "eager_input_streaming": True, "allowed_callers": ["direct"], "defer_loading": False},
    ]
    function = {"name": "look", "parameters": {"type": "object"}}
    assert asked(tools=tools)["tools"] == [
        {"type": "function", "function": {**function, "description": "Looks", "strict": True}},
        {"type": "function", "function": function},
    ]


@pytest.mark.parametrize(
    ("choice", "carried"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_the_choice_of_a_tool_is_carried_over(choice: Json, carried: Json) -> None:
    assert asked(tools=[TOOL], tool_choice=choice) == {**asked(tools=[TOOL]), **carried}


@pytest.mark.parametrize(
    "field",
    ["top_k", "container", "mcp_servers", "context_management", "inference_geo", "diagnostics", "user_profile_id"],
)
def test_what_the_provider_cannot_do_is_refused(field: str) -> None:
    fields: Json = {field: 1}
    assert refused(**fields) == field


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"speed": "fast"}, "speed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"fallbacks": "default"}, "fallbacks"),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
        ({"metadata": {"team": "x"}}, "metadata.team"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"output_config": {"task_budget": 5}}, "output_config.task_budget"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers"),
        ({"tools": [TOOL], "tool_choice": {"type": "any", "when": 1}}, "tool_choice.when"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name"),
        ({"messages": [*REQUEST["messages"], {"role": "assistant", "content": "The"}]}, "messages[1]"),
        ({"system": [{"type": "image", "source": PNG}]}, "system[0].type"),
    ],
)
def test_a_refusal_names_the_field(fields: Json, named: str) -> None:
    assert refused(**fields) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "search_result", "source": "s", "title": "t", "content": []}, "type"),
        ({"type": "thinking", "thinking": "t", "signature": "s"}, "type"),
        (CALL, "type"),
        ({"type": "text", "text": "a", "citations": [{"type": "char_location"}]}, "citations"),
        ({"type": "text", "text": "a", "new": 1}, "new"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "image", "source": PNG, "transformations": {"oversized_image": "error"}}, "transformations"),
        ({"type": "document", "source": {"type": "url", "url": "https://x"}}, "source.type"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "document", "source": {"type": "content", "content": "a"}}, "source.type"),
        ({"type": "document", "source": PNG}, "source.media_type"),
        ({"type": "document", "source": PDF, "citations": {"enabled": True}}, "citations"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": PNG}]}, "content[0].type"),
        ({"type": "tool_result", "tool_use_id": "t", "toolset_name": "x"}, "toolset_name"),
    ],
)
def test_a_block_that_cannot_be_carried_over_is_refused(fields: Json, named: str) -> None:
    assert refused_block(**fields) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": None}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"stream": "yes"}, "stream"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "auto", "name": "look"}}, "tool_choice.name"),
    ],
)
def test_a_malformed_field_is_named(fields: Json, named: str) -> None:
    assert refused(code=None, **fields) == named


def near(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values) | ANYTHING


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TYPES = near("text", "image", "document", "tool_use", "tool_result", "thinking", "search_result")
SOURCES = st.fixed_dictionaries(
    {"type": near("base64", "url", "text", "file")},
    optional={"media_type": near("application/pdf", "text/plain"), "data": near("QUJD"), "url": near("https://x")},
)
TEXTS = st.fixed_dictionaries({"type": near("text"), "text": near("a")}, optional={"citations": near(None, [])})
BLOCKS = TEXTS | st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "text": near("a"),
        "source": SOURCES | ANYTHING,
        "id": near("t1"),
        "name": near("look"),
        "input": st.dictionaries(st.text(max_size=3), ANYTHING, max_size=2),
        "tool_use_id": near("t1"),
        "content": near("a") | st.lists(TEXTS, max_size=2),
        "is_error": near(True),
        "citations": near({"enabled": False}),
        "cache_control": ANYTHING,
    },
)
TURNS = st.fixed_dictionaries(
    {"role": near("user", "assistant", "system"), "content": st.text(max_size=3) | st.lists(BLOCKS, max_size=3)}
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.integers(), "messages": st.lists(TURNS, max_size=3)},
    optional={
        "system": near("a") | st.lists(TEXTS, max_size=2),
        "tools": st.lists(near(TOOL), max_size=2),
        "tool_choice": near({"type": "auto"}, {"type": "tool", "name": "look"}),
        "thinking": near({"type": "adaptive"}, {"type": "enabled", "budget_tokens": 5}),
        "output_config": near({"effort": "low"}, {"format": {"type": "json_schema", "schema": {}}}),
        "stop_sequences": near(["a"]),
        "metadata": near({"user_id": "u"}),
        "service_tier": near("auto"),
        "stream": near(True),
        "speed": near("standard"),
        "top_k": ANYTHING,
    },
)


@settings(max_examples=300)
@given(BODIES | st.dictionaries(st.text(max_size=5), ANYTHING, max_size=3))
def test_any_request_is_translated_or_refused_and_never_changed(body: Json) -> None:
    before = copy.deepcopy(body)
    with contextlib.suppress(InvalidRequest):
        json.dumps(TRANSLATOR.request(body), allow_nan=False)
    assert body == before


# The whole answer.


def completion(message: Json, finish: str | None = "stop", **fields: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    choice |= fields.pop("choice", {})
    return {"id": "chatcmpl-7", "object": "chat.completion", "model": "big", "choices": [choice], **fields}


def tool_call(call_id: str = "c1", name: str = "look", arguments: Any = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(answer: Json, request: Json | None = None) -> Json:
    message = TRANSLATOR.response(answer, request or REQUEST)
    Message.model_validate(message, strict=True)
    return message


def test_an_answer_has_every_field_of_a_message() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert answered(completion({"content": "Hello"}, usage=usage, service_tier="default")) == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "big",
        "container": None,
        "content": [{"type": "text", "text": "Hello", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "cache_creation": None,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
            "server_tool_use": None,
            "inference_geo": None,
            "service_tier": "standard",
        },
    }


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "prompt_tokens_details": None}, "many"])
def test_a_server_that_does_not_count_gives_zeros(usage: Any) -> None:
    counted = answered(completion({"content": "a"}, usage=usage))["usage"]
    assert (counted["input_tokens"], counted["output_tokens"], counted["cache_read_input_tokens"]) == (0, 0, 0)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_blocks_come_in_the_order_of_thinking_text_and_calls(field: str) -> None:
    calls = [tool_call("c1", arguments='{"a": 1}'), tool_call("c2", arguments="")]
    content = answered(completion({field: "hm", "content": "See", "tool_calls": calls}, "tool_calls"))["content"]
    assert content == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "See", "citations": None},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
    ]


def test_thinking_that_the_client_does_not_want_to_see_is_left_out() -> None:
    request = {**REQUEST, "thinking": {"type": "adaptive", "display": "omitted"}}
    answer = completion({"reasoning": "hm", "content": "See"})
    assert [block["type"] for block in answered(answer, request)["content"]] == ["text"]
    assert [block["type"] for block in joined(streamed(chunks_of(answer), request))["content"]] == ["text"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("repetition", "end_turn"),
        ("eos", "end_turn"),
    ],
)
def test_the_reason_to_stop_is_translated(finish: str, reason: str) -> None:
    answer = completion({"content": "a"}, finish)
    assert answered(answer)["stop_reason"] == joined(streamed(chunks_of(answer)))["stop_reason"] == reason


def test_a_forced_tool_call_is_tool_use_though_openai_says_stop() -> None:
    assert answered(completion({"content": None, "tool_calls": [tool_call()]}))["stop_reason"] == "tool_use"


def test_a_refusal_is_text_with_its_own_reason() -> None:
    message = answered(completion({"content": None, "refusal": "No."}))
    assert message["content"] == [{"type": "text", "text": "No.", "citations": None}]
    assert message["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("met", "finish", "stopped"),
    [
        ("END", "stop", ("stop_sequence", "END")),
        ("other", "stop", ("end_turn", None)),
        (7, "stop", ("end_turn", None)),
        (None, "stop", ("end_turn", None)),
        ("END", "length", ("max_tokens", None)),
    ],
)
def test_vllm_says_which_stop_sequence_it_met(met: Any, finish: str, stopped: Any) -> None:
    answer = completion({"content": "a"}, finish, choice={"stop_reason": met})
    request = {**REQUEST, "stop_sequences": ["END"]}
    for message in (answered(answer, request), joined(streamed(chunks_of(answer), request))):
        assert (message["stop_reason"], message["stop_sequence"]) == stopped


NO_ARGUMENTS: list[Any] = [
    '{"a"', "[]", "null", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 9999, {}
]  # fmt: skip


def test_without_stop_sequences_none_is_met() -> None:
    answer = completion({"content": "a"}, choice={"stop_reason": "END"})
    assert answered(answer, {**REQUEST, "stop_sequences": None})["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"error": {"message": "no"}},
        {"choices": []},
        {"choices": ["a"]},
        completion({"content": "a"}, None),
        completion({"content": "a"}, "abort"),
        completion({"content": "a"}, "error"),
        completion({"content": "a"}, 5),  # type: ignore[arg-type]
        completion({"content": ["a"]}),
        completion({"content": "\ud800"}),
        completion({"content": None}, choice={"message": None}),
        completion({"tool_calls": {}}),
        completion({"tool_calls": [tool_call(call_id="")]}),
        completion({"tool_calls": [tool_call(name="")]}),
        completion({"tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}),
        *(completion({"tool_calls": [tool_call(arguments=arguments)]}) for arguments in NO_ARGUMENTS),
    ],
)
def test_what_is_no_answer_is_incomplete(answer: Json) -> None:
    with pytest.raises(Incomplete):
        TRANSLATOR.response(answer, REQUEST)


# The stream.


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> Json:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish, **fields}
    return {"id": "chatcmpl-7", "object": "chat.completion.chunk", "model": "big", "choices": [choice]}


def call_piece(index: int, arguments: str | None = None, **fields: Any) -> Json:
    name = fields.pop("name", None)
    return {"tool_calls": [{"index": index, **fields, "function": {"name": name, "arguments": arguments}}]}


def begun(index: int, arguments: str = "") -> Json:
    return call_piece(index, arguments, id=f"c{index}", name="look", type="function")


def counted(usage: Any) -> Json:
    return {**chunk(), "choices": [], "usage": usage}


def chunks_of(answer: Json) -> list[Json]:
    """The plainest stream of an answer without tool calls."""
    (choice,) = answer["choices"]
    end = {key: value for key, value in choice.items() if key not in ("message", "index", "finish_reason")}
    return [chunk(choice["message"]), chunk({}, choice["finish_reason"], **end)]


def events_in(sent: bytes) -> list[Json]:
    splitter = Splitter(1_000_000)
    events = []
    for raw in splitter.feed(sent):
        parsed = parse(raw)
        assert parsed.data is not None
        payload = json.loads(parsed.data)
        assert parsed.name == payload["type"]
        EVENT.validate_python(payload, strict=True)
        events.append(payload)
    assert splitter.empty
    return events


def streamed(chunks: list[Json], request: Json | None = None) -> list[Json]:
    stream = TRANSLATOR.stream(request or REQUEST)
    before = copy.deepcopy(chunks)
    events = [event for piece in chunks for event in events_in(stream.feed(piece))]
    assert chunks == before
    return events + events_in(stream.finish())


def joined(events: list[Json]) -> Json:
    """The message that Anthropic's SDK makes of the events, without what only it has."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        snapshot = accumulate_event(event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers)
    message = dict(json.loads(snapshot.to_json()))
    for made in message["content"]:
        made.pop("parsed_output", None)
    return message


def outline(events: list[Json]) -> list[str]:
    """Each event in a word, with the delta's own text."""

    def of(event: Json) -> str:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": {"type": kind}}:
                return f"{index} {kind}"
            case {"type": "content_block_delta", "index": index, "delta": {"type": _, **rest}}:
                return f"{index}:{''.join(map(str, rest.values()))}"
            case {"type": "content_block_stop", "index": index}:
                return f"{index} stop"
        return str(event["type"])

    return [of(event) for event in events]


def test_a_stream_has_anthropics_order() -> None:
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "h"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        counted({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}),
    ]
    events = streamed(chunks)
    assert outline(events) == [
        "message_start",
        "0 thinking", "0:h", "0:m", "0 stop",
        "1 text", "1:Hel", "1:lo", "1 stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[0]["message"]["usage"]["input_tokens"] == events[0]["message"]["usage"]["output_tokens"] == 0
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None, "container": None},
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": None,
            "server_tool_use": None,
        },
    }


def test_the_first_chunk_starts_the_message_and_the_next_is_passed_on_at_once() -> None:
    stream = TRANSLATOR.stream(REQUEST)
    assert outline(events_in(stream.feed(chunk({"role": "assistant"})))) == ["message_start"]
    assert outline(events_in(stream.feed(chunk({"content": "a"})))) == ["0 text", "0:a"]
    assert outline(events_in(stream.feed(chunk({"content": "b"})))) == ["0:b"]


def test_calls_one_after_the_other_are_passed_on_at_once() -> None:
    stream = TRANSLATOR.stream(REQUEST)
    stream.feed(chunk({"content": "See"}))
    assert outline(events_in(stream.feed(chunk(begun(0))))) == ["0 stop", "1 tool_use"]
    assert outline(events_in(stream.feed(chunk(call_piece(0, '{"a":'))))) == ['1:{"a":']
    assert outline(events_in(stream.feed(chunk(call_piece(0, "1}"))))) == ["1:1}"]
    assert outline(events_in(stream.feed(chunk(begun(1, "{}"))))) == ["1 stop", "2 tool_use", "2:{}"]


def test_calls_by_turns_wait_for_the_one_before() -> None:
    stream = TRANSLATOR.stream(REQUEST)
    stream.feed(chunk(begun(0)))
    assert stream.feed(chunk(begun(1))) == b""
    assert outline(events_in(stream.feed(chunk(call_piece(0, '{"a": {}'))))) == ['0:{"a": {}']
    assert stream.feed(chunk(call_piece(1, '{"b"'))) == b""
    assert outline(events_in(stream.feed(chunk(call_piece(0, "}"))))) == ["0:}", "0 stop", "1 tool_use", '1:{"b"']
    assert outline(events_in(stream.feed(chunk(call_piece(1, ":1}"))))) == ["1::1}"]
    stream.feed(chunk({}, "tool_calls"))
    assert outline(events_in(stream.finish())) == ["1 stop", "message_delta", "message_stop"]


def test_a_call_without_arguments_holds_the_next_one_back_until_the_end() -> None:
    events = streamed([chunk(begun(0)), chunk(begun(1, "{}")), chunk({}, "tool_calls")])
    assert outline(events) == [
        "message_start",
        "0 tool_use", "0 stop",
        "1 tool_use", "1:{}", "1 stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ["", "{", '{"a": "b', '{"a": [1, ', '{"a": tru'])
def test_a_call_that_the_length_limit_cut_off_is_streamed_as_far_as_it_came(arguments: str) -> None:
    chunks = [chunk({"content": "Hm"}), chunk(begun(0, "{}")), chunk(begun(1)), chunk(call_piece(1, arguments))]
    events = streamed([*chunks, chunk({}, "length")])
    assert outline(events)[4:] == [
        "1 tool_use", "1:{}", "1 stop",
        "2 tool_use", *([f"2:{arguments}"] if arguments else []), "2 stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    message = joined(events)
    assert message["stop_reason"] == "max_tokens"
    assert [made["type"] for made in message["content"]] == ["text", "tool_use", "tool_use"]


@pytest.mark.parametrize("arguments", ["", "{", '{"a": "b', '{"a": [1, ', '{"a": tru'])
def test_a_call_that_the_length_limit_cut_off_is_left_out_of_a_whole_message(arguments: str) -> None:
    calls = [tool_call("c0", arguments='{"a": 1}'), tool_call("c1", arguments=arguments)]
    message = answered(completion({"tool_calls": calls}, "length"))
    assert message["content"] == [{**CALL, "id": "c0", "input": {"a": 1}}]
    assert message["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("arguments", ["[]", '"a"', '{"a": NaN}'])
def test_arguments_that_are_whole_and_no_object_are_no_matter_of_the_length(arguments: str) -> None:
    with pytest.raises(Incomplete):
        answered(completion({"tool_calls": [tool_call("c0", arguments=arguments)]}, "length"))
    with pytest.raises(Incomplete):
        streamed([chunk(begun(0, arguments)), chunk({}, "length")])


@pytest.mark.parametrize("arguments", ["", " \n", "{}", " {} "])
def test_a_call_without_arguments_has_an_empty_input(arguments: str) -> None:
    whole = answered(completion({"tool_calls": [tool_call("c0", arguments=arguments)]}))
    events = streamed([chunk(begun(0)), *(chunk(call_piece(0, piece)) for piece in arguments), chunk({}, "stop")])
    assert whole["content"] == joined(events)["content"] == [{**CALL, "id": "c0", "input": {}}]


def test_id_and_name_may_come_in_pieces_and_again() -> None:
    chunks = [
        chunk(call_piece(0, "{", id="c0")),
        chunk(call_piece(0, "", name="look")),
        chunk(call_piece(0, "}", id="another", name="look")),
        chunk({}, "tool_calls"),
    ]
    assert joined(streamed(chunks))["content"] == [{"type": "tool_use", "id": "c0", "name": "look", "input": {}}]


def test_a_refusal_is_streamed_as_text() -> None:
    message = joined(streamed([chunk({"refusal": "N"}), chunk({"refusal": "o."}), chunk({}, "stop")]))
    assert [block["text"] for block in message["content"]] == ["No."]
    assert message["stop_reason"] == "refusal"


def test_other_choices_and_chunks_without_any_are_passed_over() -> None:
    other = chunk({"content": "x"}, "length", index=1)
    azure = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    end = {"id": "chatcmpl-7", "model": "big", "choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}
    message = joined(streamed([azure, other, chunk({"content": "a"}), other, end, other]))
    assert (message["id"], message["model"], message["stop_reason"]) == ("msg_7", "big", "end_turn")
    assert [block["text"] for block in message["content"]] == ["a"]


def test_an_answer_may_be_empty() -> None:
    assert outline(streamed([chunk({}, "stop")])) == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    "malformed",
    [
        {},
        {"choices": None},
        {"choices": [1]},
        {"error": {"message": "no"}},
        chunk([]),
        chunk({"content": 1}),
        chunk({"content": "\ud800"}),
        chunk({"tool_calls": [1]}),
        chunk({"tool_calls": [{"function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": "0"}]}),
        chunk({"tool_calls": [{"index": 0, "type": "custom"}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": {}}}]}),
    ],
)
def test_a_chunk_that_makes_no_sense_is_incomplete(malformed: Json) -> None:
    stream = TRANSLATOR.stream(REQUEST)
    stream.feed(chunk({"content": "a"}))
    with pytest.raises(Incomplete):
        stream.feed(malformed)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [counted({})],
        [chunk({"content": "a"})],
        [chunk({"content": "a"}, "abort")],
        [chunk(begun(0, '{"a"')), chunk({}, "tool_calls")],
        [chunk(begun(0, "[]")), chunk({}, "tool_calls")],
        [chunk(call_piece(0, "{}", id="c0")), chunk({}, "tool_calls")],
        [chunk(call_piece(0, "{}", name="look")), chunk({}, "tool_calls")],
    ],
)
def test_a_stream_that_does_not_end_well_is_incomplete(chunks: list[Json]) -> None:
    stream = TRANSLATOR.stream(REQUEST)
    for piece in chunks:
        stream.feed(piece)
    with pytest.raises(Incomplete):
        stream.finish()


def test_arguments_do_not_go_on_after_their_end() -> None:
    stream = TRANSLATOR.stream(REQUEST)
    for piece in (begun(0, "{}"), begun(1, "{"), call_piece(0, "\n")):
        stream.feed(chunk(piece))
    with pytest.raises(Incomplete):
        stream.feed(chunk(call_piece(0, "{}")))


JSON_OBJECTS = st.dictionaries(st.text(max_size=4), ANYTHING, max_size=3)
WRITERS: list[Callable[[Any], str]] = [
    json.dumps,
    lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    lambda value: f" {json.dumps(value)}\n",
]


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    edges = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=6))})
    return [text[start:end] for start, end in pairwise(edges)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """An answer, and its chunks: what comes before the calls in order, the calls' pieces by turns."""
    texts = {field: draw(st.text(max_size=12)) for field in ("reasoning", "content", "refusal")}
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    calls = []
    for index in range(draw(st.integers(0, 3))):
        empty = draw(st.booleans())
        arguments = "" if empty else draw(st.sampled_from(WRITERS))(draw(JSON_OBJECTS))
        if finish == "length" and draw(st.booleans()):
            arguments = arguments[: draw(st.integers(0, len(arguments)))]
        calls.append(tool_call(f"c{index}", draw(st.sampled_from(["look", "ask"])), arguments))
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{field: piece} for field, text in texts.items() for piece in draw(pieces(text))]
    left = [
        [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]
        + [{"index": index, "function": {"arguments": piece}} for piece in draw(pieces(call["function"]["arguments"]))]
        for index, call in enumerate(calls)
    ]
    begun_calls = 0
    while open_calls := [index for index, queue in enumerate(left[: begun_calls + 1]) if queue]:
        index = draw(st.sampled_from(open_calls))
        begun_calls = max(begun_calls, index + 1)
        deltas.append({"tool_calls": [left[index].pop(0)]})
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    chunks = [*map(chunk, deltas), chunk({}, finish), counted(usage)]
    return completion({**texts, "tool_calls": calls or None}, finish, usage=usage), chunks


def cut_off(answer: Json) -> set[str]:
    """The calls of an answer that met the length limit in their midst: only a stream has what there is of them."""
    choice = answer["choices"][0]
    calls = choice["message"]["tool_calls"] if choice["finish_reason"] == "length" else None
    return {call["id"] for call in calls or [] if not is_json(call["function"]["arguments"])}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=300)
@given(answers())
def test_a_stream_put_together_is_the_whole_answer(case: tuple[Json, list[Json]]) -> None:
    answer, chunks = case
    events = streamed(chunks)
    message = joined(events)
    message["content"] = [made for made in message["content"] if made.get("id") not in cut_off(answer)]
    assert message == json.loads(json.dumps(answered(answer)))
    blocks = [event["index"] for event in events if event["type"] in ("content_block_start", "content_block_stop")]
    assert blocks == [index for index in range(len(blocks) // 2) for _ in range(2)]
