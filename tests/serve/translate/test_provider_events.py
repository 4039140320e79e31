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
    is_filtered,
)
from serve.translate.sse import Splitter
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
        (CHAT, delta(content="") | {"usage": {"total_tokens": 1}}),
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
        ({"object": "response", "status": "failed", "error": FAILED}, FAILED),
        ({"object": "response", "status": "failed", "error": None}, {}),
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
        {"object": "response", "status": "incomplete", "error": None},
        {"object": "batch", "status": "failed"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": '{"error": {"message": "x"}}'}},
        delta(content='"error"'),
    ],
)
def test_no_other_event_is_one(event: Json) -> None:
    assert error_in(event) is None


def choice(**said: object) -> Json:
    return {"finish_reason": "content_filter", **said}


CUT_OFF: Json = {"incomplete_details": {"reason": "content_filter"}, "output": []}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (CHAT, {"choices": [choice(message={"role": "assistant", "content": "", "refusal": None, "annotations": []})]}),
        (CHAT, {"choices": [choice(delta={}), choice(delta={"role": "assistant", "content": None})]}),
        (COMPLETIONS, {"choices": [choice(text="")]}),
        (MESSAGES, {"type": "message", "content": [], "stop_reason": "refusal"}),
        (MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "refusal"}}),
        (RESPONSES, CUT_OFF),
        (RESPONSES, {"type": "response.incomplete", "response": CUT_OFF}),
    ],
)
def test_a_filter_may_leave_nothing(path: str, said: Json) -> None:
    assert is_filtered(path, said)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        *((path, {}) for path in ALL),
        (CHAT, {"choices": [choice(message={"content": "Well"})]}),
        (CHAT, {"choices": [choice(message={"tool_calls": [{"id": "call_1"}]})]}),
        (CHAT, {"choices": [choice(delta={}), {"finish_reason": "stop", "delta": {}}]}),
        (CHAT, {"choices": [{"finish_reason": "length", "message": {"content": ""}}]}),
        (CHAT, {"choices": [None]}),
        (COMPLETIONS, {"choices": [choice(text="Well")]}),
        (MESSAGES, {"type": "message", "content": [{"type": "text", "text": "Well"}], "stop_reason": "refusal"}),
        (MESSAGES, {"type": "message", "content": [], "stop_reason": "end_turn"}),
        (MESSAGES, {"type": "message_delta", "delta": None}),
        (RESPONSES, CUT_OFF | {"output": [{"type": "message"}]}),
        (RESPONSES, {"incomplete_details": {"reason": "max_output_tokens"}, "output": []}),
        (RESPONSES, {"type": "response.incomplete", "response": None}),
    ],
)
def test_what_is_there_or_ended_otherwise_is_an_answer(path: str, said: Json) -> None:
    assert not is_filtered(path, said)


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


def plain(path: str) -> bytes:
    return written(path, saying(path, "Good day"))


@pytest.mark.parametrize("path", ALL)
def test_a_chunk_of_what_passes_unparsed_passes_whole(path: str) -> None:
    for count in (1, 2, 33):
        assert STREAMS[path].are_plain(plain(path) * count)
        assert STREAMS[path].pieces(plain(path) * count) == count


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("strange", [b": wait\n\n", b"\n", b"\r\n", b"data: [DONE]\n\n", b"data: {}\r\n\r\n", b"x"])
def test_no_chunk_does_with_anything_else_in_it(path: str, strange: bytes) -> None:
    one = plain(path)
    for chunk in (strange, strange + one, one + strange, one + strange + one, one[:-1], one[1:], b""):
        assert not STREAMS[path].are_plain(chunk)


@pytest.mark.parametrize("path", ALL)
@given(drawn=st.data())
def test_a_chunk_that_passes_whole_is_of_blocks_that_pass(path: str, drawn: st.DataObject) -> None:
    pieces = [plain(path), b"\n", b"\r", b"}\n\n", b"{}", b"data: {", b"event: ", b"error", b"data: {}\n\n"]
    chunk = b"".join(drawn.draw(st.lists(st.sampled_from(pieces), max_size=8)))
    splitter = Splitter(1 << 20)
    blocks = splitter.feed(chunk)
    if STREAMS[path].are_plain(chunk):
        assert splitter.empty
        assert all(STREAMS[path].is_plain(block) for block in blocks)
        assert STREAMS[path].pieces(chunk) == sum(STREAMS[path].piece in block for block in blocks)


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
        **dict.fromkeys(["choices", "usage", "error", "response", "delta", "status", "content", "output"], ANY),
    },
)


@given(st.sampled_from(ALL), SHAPES)
def test_an_event_of_any_shape_can_be_judged(path: str, event: Json) -> None:
    assert is_content(path, event) in (True, False)
    assert is_filtered(path, event) in (True, False)
    error = error_in(event)
    assert error is None or isinstance(error, dict)
