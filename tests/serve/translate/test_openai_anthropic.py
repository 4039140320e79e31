import contextlib
import copy
import itertools
import json
from functools import cache
from typing import Any

import anthropic.types
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.openai_anthropic import IGNORED, ChatToMessages
from serve.translate.translator import Incomplete, Translator

NOW = 1_790_000_000
CHAT: Translator = ChatToMessages(default_max_tokens=100, clock=lambda: NOW + 0.5)
HELLO: list[Json] = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PDF = "data:application/pdf;base64,JVBERi0="
PNG = "data:image/png;base64,iVBORw0="


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def translated(**fields: Any) -> Json:
    """The request for Anthropic, which its SDK's types accept."""
    request = CHAT.request({"model": "claude", "messages": HELLO, **fields})
    adapter(MessageCreateParamsNonStreaming).validate_python({**request, "stream": False})
    assert set(request) <= set(MessageCreateParamsNonStreaming.__annotations__) | {"temperature", "top_p"}
    for message in request["messages"]:
        adapter(anthropic.types.MessageParam).validate_python(message)
        for block in message["content"]:
            adapter(anthropic.types.ContentBlockParam).validate_python(block)
    for tool in request.get("tools", []):
        adapter(anthropic.types.ToolParam).validate_python(tool)
    json.dumps(request, allow_nan=False)
    return request


def turns(*messages: Json) -> list[Json]:
    return list(translated(messages=list(messages))["messages"])


def refused(**fields: Any) -> str:
    """The field that the refusal names."""
    with pytest.raises(InvalidRequest) as caught:
        CHAT.request({"model": "claude", "messages": HELLO, **fields})
    assert caught.value.param is not None
    assert caught.value.message.startswith(f"'{caught.value.param}' ")
    assert len(caught.value.message) < 300
    return caught.value.param


def refused_part(part: Json, role: str = "user") -> str:
    message = {"role": role, "content": [part], **({"tool_call_id": "c"} if role == "tool" else {})}
    return refused(messages=[message]).removeprefix("messages[0].content[0]")


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def call(name: str = "weather", arguments: str = "{}", call_id: str = "c1") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str, content: Any = "ok") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


class TestRequest:
    def test_the_least_request(self) -> None:
        assert translated() == {
            "model": "claude",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": [text("Hello")]}],
        }

    @pytest.mark.parametrize("field", ["model", "messages"])
    def test_what_must_be_there(self, field: str) -> None:
        assert refused(**{field: None}) == field

    def test_the_path_is_anthropics(self) -> None:
        assert CHAT.path == "/v1/messages"

    @pytest.mark.parametrize(
        ("given", "carried"),
        [
            ({"max_tokens": 5}, {"max_tokens": 5}),
            ({"max_completion_tokens": 6, "max_tokens": 6}, {"max_tokens": 6}),
            ({"max_completion_tokens": 6, "max_tokens": None}, {"max_tokens": 6}),
            ({"stop": "\n\nEnd"}, {"stop_sequences": ["\n\nEnd"]}),
            ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
            ({"stop": []}, {}),
            ({"temperature": 0}, {"temperature": 0}),
            ({"temperature": 0.3, "top_p": 0.9}, {"temperature": 0.3, "top_p": 0.9}),
            ({"temperature": 1, "top_p": 1.0}, {}),
            ({"stream": True}, {"stream": True}),
            ({"stream": False}, {}),
            ({"user": "u"}, {"metadata": {"user_id": "u"}}),
            ({"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
            ({"service_tier": "default"}, {"service_tier": "standard_only"}),
            ({"service_tier": "flex"}, {}),
            ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
            ({"reasoning_effort": "minimal"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
            ({"reasoning_effort": "xhigh"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}),
            ({"response_format": {"type": "text"}}, {}),
            ({"tools": []}, {}),
            ({"tool_choice": "auto", "parallel_tool_calls": False}, {}),
        ],
    )
    def test_carried(self, given: Json, carried: Json) -> None:
        assert translated(**given) == translated() | carried

    def test_a_schema_becomes_the_output_format(self) -> None:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        wanted = {"name": "n", "description": "A thing", "schema": schema, "strict": True}
        request = translated(response_format={"type": "json_schema", "json_schema": wanted}, reasoning_effort="high")
        assert request["output_config"] == {
            "effort": "high",
            "format": {"type": "json_schema", "schema": {"description": "A thing", **schema}},
        }

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"n": 2}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"logit_bias": {"5": 1}}, "logit_bias"),
            ({"presence_penalty": 0.1}, "presence_penalty"),
            ({"frequency_penalty": -1}, "frequency_penalty"),
            ({"seed": 0}, "seed"),
            ({"audio": {"voice": "v"}}, "audio"),
            ({"modalities": ["text", "audio"]}, "modalities"),
            ({"moderation": {"model": "m"}}, "moderation"),
            ({"prediction": {"type": "content", "content": ""}}, "prediction"),
            ({"web_search_options": {}}, "web_search_options"),
            ({"verbosity": "low"}, "verbosity"),
            ({"store": True}, "store"),
            ({"functions": [{"name": "f"}]}, "functions"),
            ({"function_call": "none"}, "function_call"),
            ({"top_k": 5}, "top_k"),
            ({"messages[].name": "n"}, "messages[].name"),
            ({"stream_options": {"other": 1}}, "stream_options.other"),
            ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
            ({"temperature": 1.1}, "temperature"),
            ({"temperature": "warm"}, "temperature"),
            ({"top_p": -0.1}, "top_p"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_completion_tokens": True}, "max_completion_tokens"),
            ({"stop": ["a", " "]}, "stop[1]"),
            ({"stop": ["a", 1]}, "stop[1]"),
            ({"service_tier": "gold"}, "service_tier"),
            ({"reasoning_effort": "some"}, "reasoning_effort"),
            ({"response_format": {"type": "json_object"}}, "response_format.type"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
                "response_format.json_schema.schema",
            ),
            ({"max_completion_tokens": 6, "max_tokens": 5}, "max_tokens"),
            ({"max_completion_tokens": 6, "max_tokens": "6"}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "system", "content": "Be brief"}]}, "messages"),
            ({"messages": [{"role": "function", "name": "f", "content": ""}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": "", "mood": "glad"}]}, "messages[0].mood"),
            ({"x" * 1000: 1}, "x" * 100),
        ],
    )
    def test_refused(self, given: Json, field: str) -> None:
        assert refused(**given) == field

    @pytest.mark.parametrize(
        "neutral",
        [
            {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False},
            {"store": False, "modalities": ["text"], "verbosity": "medium", "top_logprobs": 0, "functions": []},
            dict.fromkeys(("n", "seed", "audio", "logit_bias", "tools", "stop", "temperature", "unheard_of")),
            {"metadata": {"a": "b"}, "prompt_cache_key": "k", "stream_options": {"include_obfuscation": False}},
        ],
    )
    def test_what_asks_for_nothing_changes_nothing(self, neutral: Json) -> None:
        assert translated(**neutral) == translated()

    def test_every_ignored_field_says_what_it_was_for(self) -> None:
        assert all(IGNORED.values())


class TestMessages:
    def test_system_and_developer_messages_gather_in_order(self) -> None:
        request = translated(
            messages=[
                {"role": "system", "content": "A"},
                *HELLO,
                {"role": "developer", "content": [text("B"), text("C")], "name": "boss"},
            ]
        )
        assert request["system"] == [text("A"), text("B"), text("C")]
        assert request["messages"] == [{"role": "user", "content": [text("Hello")]}]

    def test_turns_of_one_role_become_one(self) -> None:
        user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        assert turns(user, user, assistant, assistant, user) == [
            {"role": "user", "content": [text("a"), text("a")]},
            {"role": "assistant", "content": [text("b"), text("b")]},
            {"role": "user", "content": [text("a")]},
        ]

    def test_a_message_without_content_goes(self) -> None:
        silent = {"role": "assistant", "content": "", "tool_calls": None, "refusal": None, "audio": None}
        assert turns(silent, {"role": "user", "content": [text(""), text("a")]}) == [
            {"role": "user", "content": [text("a")]}
        ]

    def test_a_round_of_tools(self) -> None:
        said = {
            "role": "assistant",
            "content": None,
            "tool_calls": [call(arguments='{"at":"Bonn"}'), call(call_id="c2")],
        }
        assert turns(*HELLO, said, result("c1"), {"role": "user", "content": "And?"}, result("c2", [text("b")])) == [
            {"role": "user", "content": [text("Hello")]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"at": "Bonn"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [text("ok")]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [text("b")]},
                    text("And?"),
                ],
            },
        ]

    def test_a_tool_may_say_nothing_and_a_call_have_no_arguments(self) -> None:
        said, told = turns({"role": "assistant", "tool_calls": [{**call(arguments=""), "index": 0}]}, result("c1", ""))
        assert said["content"][0]["input"] == {}
        assert told["content"] == [{"type": "tool_result", "tool_use_id": "c1"}]

    def test_images(self) -> None:
        (message,) = turns(
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "HTTPS://example.org/a.png"}},
                ],
            }
        )
        assert [block["source"] for block in message["content"]] == [
            {"type": "base64", "media_type": "image/png", "data": "iVBORw0="},
            {"type": "url", "url": "HTTPS://example.org/a.png"},
        ]

    def test_pdfs(self) -> None:
        (message,) = turns(
            {"role": "user", "content": [{"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}]}
        )
        source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
        assert message["content"] == [{"type": "document", "source": source, "title": "a.pdf"}]

    @pytest.mark.parametrize(
        ("part", "field"),
        [
            ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, ".type"),
            ({"type": "image_url", "image_url": {"url": "ftp://a/b.png"}}, ".image_url.url"),
            ({"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AA=="}}, ".image_url.url"),
            ({"type": "image_url", "image_url": {"url": "data:image/png,AA"}}, ".image_url.url"),
            ({"type": "image_url", "image_url": "https://example.org/a.png"}, ".image_url"),
            ({"type": "file", "file": {"file_id": "f"}}, ".file.file_id"),
            ({"type": "file", "file": {"file_data": "data:text/plain;base64,AA=="}}, ".file.file_data"),
            ({"type": "file", "file": {}}, ".file.file_data"),
            ({"type": "text"}, ".text"),
            ({"type": "text", "text": "a", "colour": "red"}, ".colour"),
            ({}, ".type"),
        ],
    )
    def test_parts_refused(self, part: Json, field: str) -> None:
        assert refused_part(part) == field

    @pytest.mark.parametrize("role", ["system", "assistant", "tool"])
    def test_only_users_show_images(self, role: str) -> None:
        assert refused_part({"type": "image_url", "image_url": {"url": PNG}}, role) == ".type"

    @pytest.mark.parametrize("arguments", ["{", "[]", '{"a":NaN}', "[" * 100_000, None, {}])
    def test_arguments_are_a_json_object(self, arguments: Any) -> None:
        messages = [*HELLO, {"role": "assistant", "tool_calls": [call(), call(arguments=arguments)]}]
        assert refused(messages=messages) == "messages[1].tool_calls[1].function.arguments"

    def test_calls_of_custom_tools_are_refused(self) -> None:
        custom = {"id": "c", "type": "custom", "custom": {"name": "n", "input": "i"}}
        messages = [{"role": "assistant", "tool_calls": [custom]}]
        assert refused(messages=messages) == "messages[0].tool_calls[0].type"

    def test_refusals_are_text(self) -> None:
        (message,) = turns(
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}, text("b")], "refusal": "Never"}
        )
        assert message["content"] == [text("No"), text("b"), text("Never")]

    def test_thinking_goes_back_where_it_is_signed(self) -> None:
        thinking = {"type": "thinking", "thinking": "Hm", "signature": "s"}
        redacted = {"type": "redacted_thinking", "data": "d"}
        blocks = [{**thinking, "index": 0}, redacted, {"type": "thinking", "thinking": "Ha"}]
        (message,) = turns(
            {"role": "assistant", "content": "a", "reasoning_content": "HmHa", "thinking_blocks": blocks}
        )
        assert message["content"] == [thinking, redacted, text("a")]

    def test_thinking_of_another_kind_is_refused(self) -> None:
        message = {"role": "assistant", "content": "a", "thinking_blocks": [{"type": "musing"}]}
        assert refused(messages=[message]) == "messages[0].thinking_blocks[0].type"


class TestTools:
    def test_functions(self) -> None:
        bare = {"type": "function", "function": {"name": "now"}}
        full = {"name": "f", "description": "d", "parameters": {"type": "object", "required": ["a"]}, "strict": True}
        assert translated(tools=[bare, {"type": "function", "function": full}])["tools"] == [
            {"name": "now", "input_schema": {"type": "object"}},
            {"name": "f", "description": "d", "input_schema": full["parameters"], "strict": True},
        ]

    @pytest.mark.parametrize(
        ("choice", "parallel", "carried"),
        [
            (None, None, None),
            (None, True, None),
            (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
            ("auto", None, {"type": "auto"}),
            ("none", False, {"type": "none"}),
            ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
            ({"type": "function", "function": {"name": "weather"}}, True, {"type": "tool", "name": "weather"}),
        ],
    )
    def test_choice(self, choice: Any, parallel: bool | None, carried: Json | None) -> None:
        request = translated(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=parallel)
        assert request.get("tool_choice") == carried
        if carried:
            adapter(anthropic.types.ToolChoiceParam).validate_python(carried)

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"tools": [{"type": "custom", "custom": {"name": "n"}}]}, "tools[0].type"),
            ({"tools": [WEATHER, {"type": "function"}]}, "tools[1].function"),
            (
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
                "tools[0].function.parameters",
            ),
            ({"tools": [{"type": "function", "function": {"name": "f", "kind": 1}}]}, "tools[0].function.kind"),
            ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
            ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.type"),
            ({"tool_choice": "required"}, "tool_choice"),
        ],
    )
    def test_refused(self, given: Json, field: str) -> None:
        assert refused(**given) == field


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "model", "messages", "max_tokens", "stop", "temperature", "tools", "tool_choice", "parallel_tool_calls",
    "response_format", "user", "reasoning_effort", "stream_options", "service_tier", "n", "role", "content", "type",
    "text", "image_url", "url", "file", "file_data", "tool_calls", "id", "function", "name", "arguments", "parameters",
    "strict", "thinking_blocks", "signature", "json_schema", "schema", "refusal", "tool_call_id",
]  # fmt: skip
WORDS = [
    "user", "assistant", "tool", "system", "text", "image_url", "file", "refusal", "function", "none", "auto",
    "required", "json_schema", "thinking", "high", "redacted_thinking", "{}", "data:image/png;base64,AA==",
]  # fmt: skip
WILD_OBJECTS = st.recursive(
    JSON_VALUES | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=25,
)
CONTENT = st.text(max_size=5) | st.lists(st.builds(text, st.text(max_size=5)) | WILD_OBJECTS, max_size=2)
CALLS = st.lists(
    st.builds(call, st.text(max_size=3), st.sampled_from(["", "{}", "[]", "{"])) | WILD_OBJECTS, max_size=2
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": CONTENT}),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": st.text(max_size=3), "content": CONTENT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={"content": CONTENT, "tool_calls": CALLS, "thinking_blocks": st.lists(WILD_OBJECTS, max_size=1)},
    ),
)
TOP_FIELDS = [
    "max_tokens", "stop", "temperature", "tools", "tool_choice", "parallel_tool_calls", "response_format", "user",
    "reasoning_effort", "stream_options", "service_tier", "n",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(TOP_FIELDS), WILD_OBJECTS, max_size=2), st.lists(MESSAGES, max_size=4))
def test_any_request_is_carried_or_refused_and_left_as_it_was(fields: Json, messages: list[Any]) -> None:
    body = {"model": "m", **fields, "messages": messages}
    before = copy.deepcopy(body)
    with contextlib.suppress(InvalidRequest):
        CHAT.request(body)
    assert repr(body) == repr(before)


@given(WILD_OBJECTS, st.sampled_from([*TOP_FIELDS, "messages", "model"]))
def test_any_value_of_a_field_is_carried_or_refused_by_its_name(value: Any, field: str) -> None:
    try:
        CHAT.request({"model": "m", "messages": HELLO, field: value})
    except InvalidRequest as error:
        param = error.param or ""
    else:
        param = field
    assert param.startswith(field)


USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5}


def answer(*content: Json, stop_reason: str = "end_turn", **fields: Any) -> Json:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": list(content),
        "stop_reason": stop_reason, "stop_sequence": None, "usage": USAGE, **fields,
    }  # fmt: skip
    anthropic.types.Message.model_validate(message)
    return message


def completed(message: Json) -> Json:
    """The whole answer, which OpenAI's SDK accepts."""
    before = copy.deepcopy(message)
    completion = CHAT.response(message, {})
    assert message == before
    ChatCompletion.model_validate(completion, strict=True)
    return completion


def thought(thinking: str = "Hm", signature: str = "s") -> Json:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def used(name: str = "weather", call_id: str = "c1", **arguments: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


class TestResponse:
    def test_text(self) -> None:
        assert completed(answer(text("Hel"), text("lo"))) == {
            "id": "chatcmpl-msg_1",
            "object": "chat.completion",
            "created": NOW,
            "model": "claude-x",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 17,
                "completion_tokens": 5,
                "total_tokens": 22,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            },
        }

    def test_calls_and_thinking(self) -> None:
        redacted = {"type": "redacted_thinking", "data": "d"}
        (choice,) = completed(answer(thought(), redacted, used(at="Köln"), stop_reason="tool_use"))["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "reasoning_content": "Hm",
            "thinking_blocks": [thought(), redacted],
            "tool_calls": [call(arguments='{"at":"Köln"}')],
        }

    def test_it_can_be_sent_back(self) -> None:
        content = [thought(), text("Let me see"), used(at="Bonn")]
        (choice,) = completed(answer(*content, stop_reason="tool_use"))["choices"]
        assert turns(choice["message"])[0]["content"] == content

    @pytest.mark.parametrize(
        ("reason", "finish_reason"),
        [
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("refusal", "content_filter"),
        ],
    )
    def test_why_it_stopped(self, reason: str, finish_reason: str) -> None:
        (choice,) = completed(answer(text("a"), stop_reason=reason))["choices"]
        assert choice["finish_reason"] == finish_reason
        assert choice["message"]["refusal"] is None

    def test_a_refusal_is_explained(self) -> None:
        details = {"type": "refusal", "category": "cyber", "explanation": "No malware."}
        (choice,) = completed(answer(text("Fir"), stop_reason="refusal", stop_details=details))["choices"]
        assert choice["message"] == {
            "role": "assistant", "content": "Fir", "refusal": "No malware.", "annotations": []
        }  # fmt: skip

    def test_tokens_of_thinking_are_counted(self) -> None:
        usage = completed(answer(usage={**USAGE, "output_tokens_details": {"thinking_tokens": 2}}))["usage"]
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}

    def test_an_uncached_prompt(self) -> None:
        usage = completed(answer(usage={"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": None}))[
            "usage"
        ]
        assert (usage["prompt_tokens"], usage["total_tokens"]) == (1, 3)

    @pytest.mark.parametrize("field", ["id", "type", "model", "content", "stop_reason", "usage"])
    def test_an_answer_that_is_none(self, field: str) -> None:
        with pytest.raises(Incomplete):
            CHAT.response({name: value for name, value in answer().items() if name != field}, {})

    @given(WILD_OBJECTS)
    def test_any_content_is_read_or_incomplete(self, content: Any) -> None:
        with contextlib.suppress(Incomplete):
            CHAT.response({**answer(), "content": content}, {})


def events(message: Json, cut: Any = lambda piece: [piece]) -> list[Json]:
    """The stream of a message; `cut` parts a string."""
    start = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    told: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(message["content"]):
        opening, deltas = opened(block, cut)
        told.append({"type": "content_block_start", "index": index, "content_block": opening})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    delta = {name: message.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    usage = {
        name: message["usage"][name] for name in ("output_tokens", "output_tokens_details") if name in message["usage"]
    }
    return [*told, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def opened(block: Json, cut: Any) -> tuple[Json, list[Json]]:
    if block["type"] == "text":
        return text(""), [{"type": "text_delta", "text": piece} for piece in cut(block["text"])]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in cut(block["thinking"])]
        return thought("", ""), [*deltas, {"type": "signature_delta", "signature": block["signature"]}]
    if block["type"] == "tool_use":
        arguments = json.dumps(block["input"]) if block["input"] else ""
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in cut(arguments)]
    return block, []


def streamed(told: list[Json], **request: Any) -> list[Json]:
    """The chunks, which OpenAI's SDK accepts."""
    stream = CHAT.stream({"stream": True, **request})
    said = b"".join(stream.feed(event) for event in told) + stream.finish()
    *blocks, last, rest = said.decode().split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return chunks


def added_up(chunks: list[Json]) -> Json:
    """The message that the deltas make, as a `chat.completion` has it."""
    message: Json = {"role": None, "content": "", "refusal": None, "annotations": []}
    entries: dict[str, dict[int, Json]] = {"tool_calls": {}, "thinking_blocks": {}}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "role":
                    message[name] = value
                elif name not in entries:
                    message[name] = (message.get(name) or "") + value
                else:
                    for entry in value:
                        index = entry.pop("index")
                        known = entries[name].setdefault(index, entry)
                        if known is not entry:
                            known["function"]["arguments"] += entry["function"]["arguments"]
    message["content"] = message["content"] or None
    return message | {name: [known[i] for i in sorted(known)] for name, known in entries.items() if known}


def read_arguments(message: Json) -> Json:
    for made in message.get("tool_calls", []):
        made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    return message


WORD = st.text(min_size=1, max_size=8)
BLOCKS = st.one_of(
    st.builds(text, st.text(max_size=20)),
    st.builds(thought, st.text(max_size=20), WORD),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, WORD),
    st.builds(lambda name, made, i: {**used(name, made), "input": i}, WORD, WORD, st.dictionaries(WORD, JSON_VALUES)),
)
ANSWERS = st.builds(
    lambda content, reason, counts, thinking, explanation: answer(
        *content,
        stop_reason=reason,
        usage={**dict(zip(USAGE, counts, strict=True)), **thinking},
        stop_details={"type": "refusal", "explanation": explanation} if reason == "refusal" else None,
    ),
    st.lists(BLOCKS, max_size=6),
    st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal", "stop_sequence"]),
    st.tuples(*[st.integers(0, 10**6)] * 4),
    st.just({}) | st.builds(lambda n: {"output_tokens_details": {"thinking_tokens": n}}, st.integers(0, 99)),
    st.none() | st.text(max_size=5),
)


@given(ANSWERS.filter(lambda message: "NaN" not in json.dumps(message)), st.data())
def test_a_stream_adds_up_to_the_whole_answer(message: Json, data: st.DataObject) -> None:
    def cut(piece: str) -> list[str]:
        places = data.draw(st.lists(st.integers(0, len(piece)), max_size=4).map(sorted))
        ends = [0, *places, len(piece)]
        return [piece[a:b] for a, b in itertools.pairwise(ends)]

    whole = completed(message)
    *chunks, last = streamed(events(message, cut), stream_options={"include_usage": True})
    assert read_arguments(added_up(chunks)) == read_arguments(whole["choices"][0]["message"])
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["usage"] == whole["usage"]
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}


def deltas(chunks: list[Json]) -> list[Json]:
    return [chunk["choices"][0]["delta"] for chunk in chunks]


class TestStream:
    def test_text(self) -> None:
        chunks = streamed(events(answer(text("Hello")), lambda piece: [piece[:2], piece[2:]]))
        assert deltas(chunks) == [{"role": "assistant", "content": ""}, {"content": "He"}, {"content": "llo"}, {}]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
        assert chunks[1] == {
            "id": "chatcmpl-msg_1",
            "object": "chat.completion.chunk",
            "created": NOW,
            "model": "claude-x",
            "choices": [{"index": 0, "delta": {"content": "He"}, "logprobs": None, "finish_reason": None}],
        }

    def test_calls(self) -> None:
        told = events(answer(text("a"), used(at="Bonn"), used("now", "c2"), stop_reason="tool_use"))
        assert deltas(streamed(told))[2:] == [
            {"tool_calls": [{"index": 0, **call(arguments="")}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"at": "Bonn"}'}}]},
            {"tool_calls": [{"index": 1, **call("now", "", "c2")}]},
            {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
            {},
        ]

    def test_thinking(self) -> None:
        redacted = {"type": "redacted_thinking", "data": "d"}
        assert deltas(streamed(events(answer(thought(), redacted))))[1:] == [
            {"reasoning_content": "Hm"},
            {"thinking_blocks": [{"index": 0, **thought()}]},
            {"thinking_blocks": [{"index": 1, **redacted}]},
            {},
        ]

    def test_thinking_may_begin_without_a_signature(self) -> None:
        told = events(answer(thought()))
        del told[2]["content_block"]["signature"]
        assert deltas(streamed(told))[2] == {"thinking_blocks": [{"index": 0, **thought()}]}

    def test_a_refusal_is_explained(self) -> None:
        details = {"type": "refusal", "explanation": "No malware."}
        *_, explained, last = streamed(events(answer(text("Fir"), stop_reason="refusal", stop_details=details)))
        assert deltas([explained, last]) == [{"refusal": "No malware."}, {}]
        assert last["choices"][0]["finish_reason"] == "content_filter"

    def test_a_count_that_is_null_takes_nothing_back(self) -> None:
        told = events(answer(text("a")))
        told[-2]["usage"]["input_tokens"] = None
        assert streamed(told, stream_options={"include_usage": True})[-1]["usage"] == completed(answer())["usage"]

    def test_usage_comes_last_and_is_null_before(self) -> None:
        *chunks, last = streamed(events(answer(text("a"))), stream_options={"include_usage": True})
        assert [chunk["usage"] for chunk in chunks] == [None] * 3
        assert (last["choices"], last["usage"]) == ([], completed(answer())["usage"])

    def test_the_sdks_own_accumulator_reads_it(self) -> None:
        message = answer(
            thought(), thought("Ha", "t"), text("a"), used(at="Bonn"), used("now", "c2"), stop_reason="tool_use"
        )
        state = ChatCompletionStreamState()
        for chunk in streamed(events(message)):
            state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
        said = state.get_final_completion().choices[0].message
        assert said.content == "a"
        assert [made.function.name for made in said.tool_calls or []] == ["weather", "now"]
        sent_back = said.model_dump(exclude={"parsed", "tool_calls"})
        sent_back["tool_calls"] = [
            made.model_dump(exclude={"function": {"parsed_arguments"}}) for made in said.tool_calls or []
        ]
        assert turns(sent_back)[0]["content"] == message["content"]

    def test_what_is_new_or_not_ours_is_passed_over(self) -> None:
        told = events(answer(text("a")))
        search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
        extra: list[Json] = [
            {"type": "novelty"},
            {"type": "content_block_start", "index": 7, "content_block": search},
            {"type": "content_block_delta", "index": 7, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
            {"type": "content_block_stop", "index": 7},
            {"type": "content_block_start", "index": 8, "content_block": text("")},
            {"type": "content_block_delta", "index": 8, "delta": {"type": "citations_delta", "citation": {}}},
            {"type": "content_block_stop", "index": 8},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}},
        ]
        assert streamed([*told[:2], *extra, *told[2:]]) == streamed(told)

    def test_no_block_begins_after_the_model_stopped(self) -> None:
        told = events(answer(text("a")))
        with pytest.raises(Incomplete):
            streamed([*told[:-1], *told[2:5], told[-1]])

    def test_it_is_not_done_before_it_says_so(self) -> None:
        told = events(answer(text("a")))
        for length in range(len(told)):
            stream = CHAT.stream({})
            for event in told[:length]:
                stream.feed(event)
            with pytest.raises(Incomplete):
                stream.finish()

    @pytest.mark.parametrize("dropped", [0, 2, 4, 5])
    def test_an_event_that_is_missing(self, dropped: int) -> None:
        told = events(answer(text("a")))
        with pytest.raises(Incomplete):
            streamed(told[:dropped] + told[dropped + 1 :])

    @pytest.mark.parametrize("twice", [0, 2, 4, 5, 6])
    def test_an_event_that_comes_twice(self, twice: int) -> None:
        told = events(answer(text("a")))
        with pytest.raises(Incomplete):
            streamed([*told[: twice + 1], *told[twice:]])

    @pytest.mark.parametrize(
        "event",
        [
            {},
            {"type": "content_block_delta", "index": 5, "delta": {"type": "text_delta", "text": "a"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "a"}},
            {"type": "content_block_delta", "index": 0},
            {"type": "content_block_stop", "index": True},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        ],
    )
    def test_an_event_that_makes_no_sense(self, event: Json) -> None:
        stream = CHAT.stream({})
        for before in events(answer(text("a")))[:3]:
            stream.feed(before)
        with pytest.raises(Incomplete):
            stream.feed(event)

    @given(st.lists(st.sampled_from(events(answer(text("a"), thought(), used()))) | WILD_OBJECTS, max_size=12))
    def test_any_events_make_a_stream_or_are_incomplete(self, told: list[Any]) -> None:
        stream = CHAT.stream({"stream_options": {"include_usage": True}})
        with contextlib.suppress(Incomplete):
            for event in told:
                if isinstance(event, dict):
                    stream.feed(event)
            stream.finish()
