from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.schemas import Json
from serve.translate.provider_events import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from serve.translate.usage import (
    CACHED_INPUT,
    EMBEDDINGS,
    ESTIMATED,
    INPUT,
    MAX_TOKENS,
    OUTPUT,
    REPORTED,
    Count,
    Usage,
    may_hold_usage,
)
from tests.fakes.vendors import named, unnamed

OLDER = (CHAT, COMPLETIONS, EMBEDDINGS)
ALL = (*OLDER, RESPONSES, MESSAGES)
COUNT_TOKENS = "/v1/messages/count_tokens"
COUNTS = st.integers(0, MAX_TOKENS // 2)


def read(path: str, *said: Json, pieces: int = 0) -> list[Count]:
    usage = Usage(path)
    for one in said:
        usage.read(one)
    return usage.counts(pieces)


def reported(given: int, made: int, cached: int) -> list[Count]:
    return [Count(INPUT, REPORTED, given), Count(CACHED_INPUT, REPORTED, cached), Count(OUTPUT, REPORTED, made)]


def usage_of(path: str, fresh: int, made: int, cached: int) -> Json:
    """As the endpoint writes it. `fresh` is what of the input did not come from a cache."""
    if path == MESSAGES:
        return {
            "input_tokens": fresh // 2,
            "cache_creation_input_tokens": fresh - fresh // 2,
            "cache_read_input_tokens": cached,
            "output_tokens": made,
        }
    given, generated = ("input", "output") if path == RESPONSES else ("prompt", "completion")
    return {
        f"{given}_tokens": fresh + cached,
        f"{generated}_tokens": made,
        f"{given}_tokens_details": {"cached_tokens": cached},
        "total_tokens": fresh + cached + made,
    }


def stream_of(path: str, usage: Json, *, cumulative: bool) -> list[Json]:
    """The events that tell it. `cumulative`: they tell it more than once, and only the last is right."""
    early = {name: 1 for name in usage if name.endswith(("output_tokens", "completion_tokens"))}
    if path == RESPONSES:
        opening: Json = {"type": "response.created", "response": {"status": "in_progress", "usage": None}}
        return [opening, {"type": "response.completed", "response": {"status": "completed", "usage": usage}}]
    if path == MESSAGES:
        made = usage if cumulative else {"output_tokens": usage["output_tokens"]}
        told = [usage | early, made] if cumulative else [made]
        deltas: list[Json] = [{"type": "message_delta", "delta": {}, "usage": one} for one in told]
        return [{"type": "message_start", "message": {"type": "message", "usage": usage | early}}, *deltas]
    first = usage | early if cumulative else None
    return [{"choices": [{"delta": {"content": "a"}}], "usage": first}, {"choices": [], "usage": usage}]


@pytest.mark.parametrize("path", ALL)
def test_a_whole_answer_tells_its_usage(path: str) -> None:
    assert read(path, {"usage": usage_of(path, 7, 3, 2)}) == reported(9, 3, 2)


def test_embeddings_make_no_output() -> None:
    assert read(EMBEDDINGS, {"usage": {"prompt_tokens": 8, "total_tokens": 8}}) == [Count(INPUT, REPORTED, 8)]


@pytest.mark.parametrize("said", [{"input_tokens": 7}, {"usage": {"input_tokens": 7, "output_tokens": 1}}])
def test_counting_tokens_uses_none(said: Json) -> None:
    assert read(COUNT_TOKENS, said, pieces=1) == []


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@given(fresh=COUNTS, made=COUNTS, cached=COUNTS, pieces=COUNTS)
def test_a_stream_counts_the_same(path: str, cumulative: bool, fresh: int, made: int, cached: int, pieces: int) -> None:
    usage = usage_of(path, fresh, made, cached)
    whole = read(path, {"usage": usage})
    assert whole == reported(fresh + cached, made, cached)
    assert read(path, *stream_of(path, usage, cumulative=cumulative), pieces=pieces) == whole


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_every_end_of_a_response_tells(kind: str) -> None:
    event = {"type": kind, "response": {"usage": usage_of(RESPONSES, 7, 3, 2)}}
    assert read(RESPONSES, event) == reported(9, 3, 2)


@pytest.mark.parametrize("path", ALL)
def test_without_usage_the_output_is_what_came(path: str) -> None:
    wordless: list[Json] = [{}, {"usage": None}, {"usage": {}}, {"response": None, "message": None}]
    for said in wordless:
        assert read(path, said, pieces=5) == [Count(OUTPUT, ESTIMATED, 5)]
        assert read(path, said) == []


def test_a_message_that_has_begun_tells_its_input_only() -> None:
    start, *_ = stream_of(MESSAGES, usage_of(MESSAGES, 7, 3, 2), cumulative=False)
    known = [Count(INPUT, REPORTED, 9), Count(CACHED_INPUT, REPORTED, 2)]
    assert read(MESSAGES, start) == known
    assert read(MESSAGES, start, pieces=4) == [*known, Count(OUTPUT, ESTIMATED, 4)]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("wild", [None, True, -1, 1.5, 10.0, float("nan"), "7", [7], {"a": 7}, MAX_TOKENS + 1, 10**400])
def test_what_is_no_count_is_as_if_it_had_not_been_said(path: str, wild: Any) -> None:
    usage = usage_of(path, 7, 3, 2)
    spoilt = {name: wild for name in usage}
    assert read(path, {"usage": spoilt}) == []
    assert read(path, {"usage": usage}, {"usage": spoilt}) == reported(9, 3, 2)


@pytest.mark.parametrize("path", [*OLDER, RESPONSES])
def test_more_from_the_cache_than_there_was_is_no_count(path: str) -> None:
    assert read(path, {"usage": usage_of(path, -3, 3, 5)}) == [Count(INPUT, REPORTED, 2), Count(OUTPUT, REPORTED, 3)]


NAMES = sorted({name for path in ALL for name in usage_of(path, 1, 1, 1)} | {"usage", "message", "response", "type"})
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
WILD = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "cached_tokens"]), inner),
)
SAID = st.dictionaries(st.sampled_from(NAMES), WILD)


@given(path=st.sampled_from([*ALL, COUNT_TOKENS]), said=st.lists(SAID, max_size=4), pieces=COUNTS)
def test_wild_answers_never_raise(path: str, said: list[Json], pieces: int) -> None:
    counts = read(path, *said, pieces=pieces)
    kinds = {count.kind: count.tokens for count in counts}
    assert len(kinds) == len(counts)
    assert all(type(count.tokens) is int and 0 <= count.tokens <= 3 * MAX_TOKENS for count in counts)
    assert kinds.get(CACHED_INPUT, 0) <= kinds.get(INPUT, 0)


@given(path=st.sampled_from([*ALL, COUNT_TOKENS]), block=st.binary() | st.binary().map(lambda wild: b"data: %b" % wild))
def test_nor_do_wild_bytes(path: str, block: bytes) -> None:
    usage = Usage(path)
    usage.read_block(block + b"\n\n")
    assert usage.counts() == []


@pytest.mark.parametrize("data", [b"[DONE]", b"[1]", b"null", b"[" * 100_000, b'{"usage": {"a": 1%b}}' % (b"1" * 5000)])
def test_nor_does_json_that_is_no_event(data: bytes) -> None:
    usage = Usage(CHAT)
    usage.read_block(b"data: %b\n\n" % data)
    assert usage.counts() == []


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_events_bytes_say_whether_to_look(path: str) -> None:
    *_, event = stream_of(path, usage_of(path, 7, 3, 2), cumulative=True)
    block = named(event) if path == MESSAGES else unnamed(event)
    usage = Usage(path)
    assert may_hold_usage(block)
    usage.read_block(block)
    assert usage.counts() == reported(9, 3, 2)


@pytest.mark.parametrize("usage", ['"usage": {', '"usage":{', '"usage" :\t{'])
def test_however_it_is_spaced(usage: str) -> None:
    assert may_hold_usage(b'data: {"choices": [], %b"prompt_tokens": 7}}\n\n' % usage.encode())


@pytest.mark.parametrize("event", [{"usage": None}, {"choices": [{"delta": {"content": 'the "usage": {"a": 1}'}}]}])
def test_no_look_is_wasted(event: Json) -> None:
    assert not may_hold_usage(unnamed(event))
