import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.endpoints import Kind
from serve.api.requests import has_fallbacks_of_its_provider, parse_object, validate, validate_for_engine
from serve.errors import InvalidRequest
from serve.schemas import Json

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": "\xff"}', "not valid UTF-8 at byte 7"),
        (b'{"a":', "not valid JSON at line 1, column 6"),
        (b"", "not valid JSON at line 1, column 1"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'{"a": -Infinity}', "-Infinity is no JSON value"),
        (b'{"a": 1e999}', "a number that is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[]", "must be a JSON object, not an array"),
        (b"null", "must be a JSON object, not null"),
        (b'"text"', "must be a JSON object, not a string"),
        (b"true", "must be a JSON object, not a boolean"),
        (b"1", "must be a JSON object, not a number"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON at line 1, column 1"),
        ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
    ],
)
def test_a_hostile_body_is_refused_quickly(body: bytes, message: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=message):
        parse_object(body)
    assert time.process_time() - began < 1


@given(st.binary() | st.text('[]{}",:\\ud8005eE-.nulltrue ').map(str.encode))
def test_no_body_can_do_worse_than_be_refused(body: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse_object(body), dict)


def test_a_good_body_is_read() -> None:
    assert parse_object('{"a": "é \\ud83d\\ude00", "b": 1.5}'.encode()) == {"a": "é 😀", "b": 1.5}


def body_for(kind: Kind, **changes: Any) -> Json:
    bodies: dict[Kind, Json] = {
        Kind.CHAT: {"messages": [USER]},
        Kind.COMPLETION: {"prompt": "hello"},
        Kind.EMBEDDING: {"input": "hello"},
        Kind.RESPONSE: {"input": "hello"},
        Kind.MESSAGE: {"messages": [USER], "max_tokens": 5},
        Kind.COUNT_TOKENS: {"messages": [USER]},
    }
    return {"model": "demo", **bodies[kind], **changes}


FORWARDED = [Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING, Kind.RESPONSE, Kind.MESSAGE, Kind.COUNT_TOKENS]


def refused(kind: Kind, body: Json, check: Callable[[Kind, Json], None] = validate) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check(kind, body)
    return caught.value


@pytest.mark.parametrize("kind", FORWARDED)
def test_a_plain_request_is_let_through(kind: Kind) -> None:
    validate(kind, body_for(kind, stream=True))
    validate(kind, body_for(kind, stream=None, temperature="for the engine to judge"))


@pytest.mark.parametrize("kind", FORWARDED)
@pytest.mark.parametrize("model", [None, "", "  ", 5, ["demo"], "x" * 513])
def test_a_request_names_its_model(kind: Kind, model: Any) -> None:
    error = refused(kind, body_for(kind, model=model))
    assert error.param == "model"
    assert len(error.message) < 100


def test_a_request_without_a_model_is_refused() -> None:
    assert refused(Kind.CHAT, {"messages": [USER]}).param == "model"


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "extra_headers"])
@pytest.mark.parametrize("kind", FORWARDED)
def test_a_request_may_not_redirect_itself(kind: Kind, field: str) -> None:
    assert refused(kind, body_for(kind, **{field: "http://169.254.169.254/"})).param == field


@pytest.mark.parametrize("stream", ["true", 1, [], {}])
def test_stream_is_a_boolean(stream: Any) -> None:
    assert refused(Kind.CHAT, body_for(Kind.CHAT, stream=stream)).param == "stream"


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.MESSAGE, Kind.COUNT_TOKENS])
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ("hello", "messages"),
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([USER, None], "messages[1]"),
        ([{"content": "x"}], "messages[0].role"),
        ([USER, USER, {"role": "root", "content": "x"}], "messages[2].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}, {}]}], "messages[0].content[1].type"),
    ],
)
def test_a_fault_in_the_messages_is_named(kind: Kind, messages: Any, param: str) -> None:
    error = refused(kind, body_for(kind, messages=messages))
    assert error.param == param
    assert error.param in error.message


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant", "tool", "function"])
def test_openais_roles(role: str) -> None:
    validate(Kind.CHAT, body_for(Kind.CHAT, messages=[{"role": role, "content": "x"}]))


@pytest.mark.parametrize("role", ["developer", "tool", "function"])
def test_roles_that_anthropic_does_not_have(role: str) -> None:
    error = refused(Kind.MESSAGE, body_for(Kind.MESSAGE, messages=[{"role": role, "content": "x"}]))
    assert error.param == "messages[0].role"


def test_an_unknown_role_is_echoed_in_part_and_on_one_line() -> None:
    error = refused(Kind.CHAT, body_for(Kind.CHAT, messages=[{"role": "\r\n" + "x" * 10_000, "content": ""}]))
    assert len(error.message) < 250
    assert "\n" not in error.message


def test_an_assistant_may_speak_in_tool_calls_alone() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    validate(
        Kind.CHAT,
        body_for(Kind.CHAT, messages=[USER, {"role": "assistant", "content": None, "tool_calls": [call]}]),
    )


@pytest.mark.parametrize("max_tokens", [None, -1, 1.5, "5", True, False])
def test_anthropic_wants_max_tokens(max_tokens: Any) -> None:
    assert refused(Kind.MESSAGE, body_for(Kind.MESSAGE, max_tokens=max_tokens)).param == "max_tokens"


def test_no_tokens_at_all_are_anthropics_way_to_fill_its_prompt_cache_but_no_engines() -> None:
    body = body_for(Kind.MESSAGE, max_tokens=0)
    validate(Kind.MESSAGE, body)
    assert refused(Kind.MESSAGE, body, validate_for_engine).param == "max_tokens"


@pytest.mark.parametrize("stored", [{"prompt": {"id": "p"}}, {"conversation": "c"}, {"previous_response_id": "r"}])
@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": []}])
def test_what_openai_stores_stands_in_for_an_input_but_not_for_an_engine(stored: Json, given: Json) -> None:
    body = {"model": "demo", **stored, **given}
    validate(Kind.RESPONSE, body)
    assert refused(Kind.RESPONSE, body, validate_for_engine).param == "input"


@pytest.mark.parametrize("value", [{}, 5, True])
def test_an_input_beside_what_openai_stores_is_one(value: Any) -> None:
    assert refused(Kind.RESPONSE, body_for(Kind.RESPONSE, conversation="c", input=value)).param == "input"


THEIRS = ["default", [{"model": "claude-sonnet-4-5"}], ["demo", {"model": "claude-sonnet-4-5"}], {}]


@pytest.mark.parametrize("fallbacks", THEIRS)
def test_fallbacks_in_anthropics_own_form_are_for_anthropic(fallbacks: Any) -> None:
    body = body_for(Kind.MESSAGE, fallbacks=fallbacks)
    validate(Kind.MESSAGE, body)
    assert has_fallbacks_of_its_provider(Kind.MESSAGE, body)
    assert refused(Kind.MESSAGE, body, validate_for_engine).param == "fallbacks"


@pytest.mark.parametrize("kind", [kind for kind in FORWARDED if kind is not Kind.MESSAGE])
@pytest.mark.parametrize("fallbacks", THEIRS)
def test_no_other_endpoint_has_fallbacks_of_a_provider(kind: Kind, fallbacks: Any) -> None:
    assert refused(kind, body_for(kind, fallbacks=fallbacks)).param == "fallbacks"


@pytest.mark.parametrize("kind", FORWARDED)
@pytest.mark.parametrize("fallbacks", [None, [], ["demo"], ["demo", "other"]])
def test_a_list_of_models_is_ours(kind: Kind, fallbacks: Any) -> None:
    body = body_for(kind, fallbacks=fallbacks)
    validate(kind, body)
    validate_for_engine(kind, body)
    assert not has_fallbacks_of_its_provider(kind, body)


@pytest.mark.parametrize("kind", FORWARDED)
@pytest.mark.parametrize("fallbacks", [[""], ["demo"] * 9])
def test_a_list_of_models_is_short_and_names_them(kind: Kind, fallbacks: Any) -> None:
    assert refused(kind, body_for(kind, fallbacks=fallbacks)).param == "fallbacks"


@pytest.mark.parametrize(
    ("kind", "field"), [(Kind.COMPLETION, "prompt"), (Kind.EMBEDDING, "input"), (Kind.RESPONSE, "input")]
)
@pytest.mark.parametrize("value", [None, [], {}, 5, True])
def test_the_text_is_there(kind: Kind, field: str, value: Any) -> None:
    assert refused(kind, body_for(kind, **{field: value})).param == field


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.sampled_from(FORWARDED),
    st.dictionaries(st.sampled_from(["model", "messages", "prompt", "input", "max_tokens", "stream"]), values),
)
def test_any_json_is_let_through_or_refused(kind: Kind, body: Json) -> None:
    with suppress(InvalidRequest):
        validate(kind, body)
