from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.schemas import Json
from serve.translate.provider_events import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    STREAMS,
    error_in,
    is_content,
)
from tests.fakes import vendors
from tests.fakes.vendors import WORDS

ALL = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]
SPOKEN = [True] * len(WORDS)


def completion_chunks() -> list[Json]:
    base: Json = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    texts: list[tuple[str, str | None]] = [("", None), *((word, None) for word in WORDS), ("", "stop")]
    return [base | {"choices": [{"index": 0, "text": text, "finish_reason": reason}]} for text, reason in texts]


@pytest.mark.parametrize(
    ("path", "events", "content"),
    [
        (CHAT, vendors.chat_chunks("m"), [False, *SPOKEN, True, True]),
        (COMPLETIONS, completion_chunks(), [False, *SPOKEN, True]),
        (RESPONSES, vendors.response_events("m"), [False] * 4 + SPOKEN + [True] * 4),
        (MESSAGES, vendors.message_events("m"), [False] * 3 + SPOKEN + [False, True, True]),
    ],
    ids=ALL,
)
def test_the_answer_begins_with_its_first_word(path: str, events: list[Json], content: list[bool]) -> None:
    assert [is_content(path, event) for event in events] == content


def delta(**fields: object) -> Json:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", **fields}, "finish_reason": None}]}


def block(kind: str | None) -> Json:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind}}


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (CHAT, delta(content="a")),
        (CHAT, delta(refusal="No.")),
        (CHAT, delta(reasoning_content="Hm")),
        (CHAT, delta(tool_calls=[{"index": 0, "id": "call_1"}])),
        (CHAT, {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}),
        (CHAT, {"choices": [{}, *delta(content="a")["choices"]]}),
        (CHAT, {"choices": [], "usage": {"total_tokens": 1}}),
        (RESPONSES, {"type": "response.function_call_arguments.delta", "delta": "{"}),
        (RESPONSES, {"type": "response.refusal.delta", "delta": "No."}),
        (RESPONSES, {"type": "response.reasoning_summary_text.delta", "delta": "Hm"}),
        (RESPONSES, {"type": "response.incomplete", "response": {}}),
        (MESSAGES, block("tool_use")),
        (MESSAGES, block("server_tool_use")),
        (MESSAGES, block("redacted_thinking")),
        (MESSAGES, {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}}),
    ],
)
def test_whatever_a_client_can_see_is_content(path: str, event: Json) -> None:
    assert is_content(path, event)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        *((path, {}) for path in ALL),
        (CHAT, delta(content="")),
        (CHAT, delta(content=None, refusal=None, tool_calls=[])),
        (CHAT, {"choices": []}),
        (CHAT, {"choices": [], "usage": None}),
        (CHAT, {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        (CHAT, {"choices": None}),
        (CHAT, {"choices": "abc"}),
        (CHAT, {"choices": [None, 1, "a", {"delta": None}, {"delta": "a"}]}),
        (RESPONSES, {"type": None}),
        (RESPONSES, {"type": "response.queued"}),
        (RESPONSES, {"type": "response.failed", "response": {}}),
        (MESSAGES, block("text")),
        (MESSAGES, block("thinking")),
        (MESSAGES, block(None)),
        (MESSAGES, {"type": "content_block_start", "content_block": None}),
        (MESSAGES, {"type": "an_event_of_tomorrow"}),
    ],
)
def test_the_frame_around_it_is_not(path: str, event: Json) -> None:
    assert not is_content(path, event)


OVERLOADED: Json = {"type": "overloaded_error", "message": "Overloaded"}
FAILED: Json = {"code": "server_error", "message": "Sorry."}
EVENT: Json = {"type": "error", "code": "server_error", "message": "Sorry.", "param": None, "sequence_number": 9}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "error", "error": OVERLOADED}, OVERLOADED),
        ({"error": FAILED}, FAILED),
        ({"choices": [], "error": FAILED}, FAILED),
        ({"error": "Sorry."}, {"message": "Sorry."}),
        (EVENT, EVENT),
        ({"type": "response.failed", "response": {"status": "failed", "error": FAILED}}, FAILED),
        ({"type": "response.failed", "response": {"status": "failed", "error": None}}, {}),
    ],
)
def test_an_error_is_found_in_every_form(event: Json, error: Json) -> None:
    found = error_in(event)
    assert found is not None
    assert found["error"] == error


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"error": None},
        {"error": ""},
        {"type": "response.created", "response": {"error": None}},
        {"type": "response.incomplete", "response": {"error": None}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": '{"error": {"message": "x"}}'}},
        delta(content='"error"'),
    ],
)
def test_no_other_event_is_one(event: Json) -> None:
    assert error_in(event) is None


EVENTS = [vendors.chat_chunks, vendors.message_events, vendors.response_events]


@pytest.mark.parametrize("events", EVENTS)
def test_a_good_stream_has_no_error(events: Callable[[str], list[Json]]) -> None:
    assert [error_in(event) for event in events("m")] == [None] * len(events("m"))


@pytest.mark.parametrize(("path", "events"), [(MESSAGES, vendors.message_events), (RESPONSES, vendors.response_events)])
def test_a_stream_ends_in_its_last_event_alone(path: str, events: Callable[[str], list[Json]]) -> None:
    *before, last = events("m")
    assert not any(STREAMS[path].is_end(event) for event in before)
    assert STREAMS[path].is_end(last)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (RESPONSES, {"type": "response.failed", "response": {}}),
        (RESPONSES, {"type": "response.output_text.done"}),
        (RESPONSES, {"type": "response.created", "response": {"metadata": {"type": "response.completed"}}}),
        (RESPONSES, {"type": []}),
        (MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        (CHAT, {"type": "message_stop", "choices": [{"finish_reason": "stop"}]}),
    ],
)
def test_what_only_comes_near_the_end_is_none(path: str, event: Json) -> None:
    assert not STREAMS[path].is_end(event)


def written(path: str, event: Json) -> bytes:
    name = f"event: {event['type']}\n".encode() if path in (MESSAGES, RESPONSES) else b""
    return name + b"data: %b\n\n" % json.dumps(event).encode()


@pytest.mark.parametrize("path", ALL)
def test_what_brings_text_passes_unparsed(path: str) -> None:
    assert STREAMS[path].is_plain(written(path, saying(path, "Good day")))


@pytest.mark.parametrize(
    ("path", "block"),
    [
        (CHAT, b"data: [DONE]\n\n"),
        (CHAT, b'data: {"error": {"message": "No."}}\n\n'),
        (CHAT, b'data: {"choices": [\n\n'),
        (CHAT, b": ping\n\n"),
        (MESSAGES, b'event: message_stop\ndata: {"type": "message_stop"}\n\n'),
        (MESSAGES, b'event: error\ndata: {"type": "error"}\n\n'),
        (MESSAGES, b'data: {"type": "message_stop"}\n\n'),
        (RESPONSES, b'event: response.completed\ndata: {"type": "response.completed"}\n\n'),
        (RESPONSES, b'event: response.failed\ndata: {"type": "response.failed"}\n\n'),
    ],
)
def test_what_may_be_an_error_or_the_end_is_looked_into(path: str, block: bytes) -> None:
    assert not STREAMS[path].is_plain(block)


TRAPS = [
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    "\r\ndata: [DONE]\r\n\r\n",
    '"type":"message_stop"',
    '{"type": "message_stop"}',
    '{"type":"response.completed"}',
    '"type": "response.incomplete"',
]


def saying(path: str, text: str) -> Json:
    if path == MESSAGES:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    if path == RESPONSES:
        return {"type": "response.output_text.delta", "delta": text}
    return delta(content=text)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("trap", TRAPS)
def test_a_model_that_speaks_of_the_end_has_not_come_to_it(path: str, trap: str) -> None:
    assert not STREAMS[path].is_end(saying(path, trap))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "type": ANY,
        "content_block": ANY,
        **dict.fromkeys(["choices", "usage", "error", "response", "delta"], ANY),
    },
)


@given(st.sampled_from(ALL), SHAPES)
def test_an_event_of_any_shape_can_be_judged(path: str, event: Json) -> None:
    assert is_content(path, event) in (True, False)
    error = error_in(event)
    assert error is None or isinstance(error, dict)
