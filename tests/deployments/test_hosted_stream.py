from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from deployments.hosted_stream import HostedStream
from serve.errors import InvalidRequest, SwitchboardError, TooManyRequests, Unavailable, UpstreamFailed
from serve.schemas import Json
from serve.translate.anthropic_openai import MessagesToChat
from serve.translate.chained import Chained
from serve.translate.openai_anthropic import ChatToMessages
from serve.translate.provider_events import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.sse import Splitter, parse
from serve.translate.translator import Translator
from serve.translate.usage import CACHED_INPUT, ESTIMATED, INPUT, OUTPUT, REPORTED, Count
from tests.fakes.vendors import TEXT, USAGE, WORDS, error_body, events_of, named, unnamed

NOW = 1_790_000_000.0
ASKED: Json = {"model": "m", "stream": True, "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
RESPONSE_ASKED: Json = {"model": "m", "stream": True, "input": "Hi"}
TO_CHAT = ChatToMessages(clock=lambda: NOW)
FROM_RESPONSES = ResponsesToChat(clock=lambda: NOW, new_id=lambda prefix: f"{prefix}1")


class Careful(HostedStream):
    """Looks at every event."""

    @override
    def _passes(self, chunk: bytes) -> bool:
        return False


@dataclass(frozen=True)
class Case:
    """Where the provider is asked, and what stands between it and the client."""

    path: str
    translator: Translator | None = None
    asked: str = "as it is"
    kind: type[HostedStream] = HostedStream

    @property
    def request(self) -> Json:
        return RESPONSE_ASKED if self.asked == "responses" else ASKED

    def stream(self) -> HostedStream:
        return self.kind(self.path, self.translator, self.request)

    @override
    def __str__(self) -> str:
        return f"{self.path} {self.asked}"


NATIVE = [Case(path) for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)]
TRANSLATED = [
    Case(CHAT, MessagesToChat(), "messages"),
    Case(MESSAGES, TO_CHAT, "chat"),
    Case(CHAT, FROM_RESPONSES, "responses"),
    Case(MESSAGES, Chained(FROM_RESPONSES, TO_CHAT), "responses"),
]
CASES = NATIVE + TRANSLATED
Outcome = tuple[bytes, type[SwitchboardError] | None, str, str | None]


def read(case: Case, chunks: Iterable[bytes]) -> Outcome:
    """What goes out, and the error after it."""
    stream, out = case.stream(), b""
    try:
        for chunk in chunks:
            out += stream.feed(chunk)
            if stream.stopped:
                break
        return out + stream.finish(), None, "", None
    except SwitchboardError as error:
        return out, type(error), error.message, error.code


def used(case: Case, chunks: Iterable[bytes]) -> list[Count]:
    """What is counted, however it ends."""
    stream = case.stream()
    with suppress(SwitchboardError):
        for chunk in chunks:
            stream.feed(chunk)
            if stream.stopped:
                break
    return stream.tokens()


def good(path: str) -> list[bytes]:
    return events_of(path, "m")


def place_of_content(path: str) -> int:
    return next(place for place, event in enumerate(good(path)) if WORDS[0].encode() in event)


def opening(path: str) -> list[bytes]:
    """The events before the first with content."""
    return good(path)[: place_of_content(path)]


def begun(path: str) -> list[bytes]:
    """The events up to the second with content."""
    return good(path)[: place_of_content(path) + 2]


def error_event(path: str, kind: str = "overloaded_error") -> bytes:
    if path == RESPONSES:
        return named({"type": "error", "sequence_number": 9, "code": kind, "message": "No.", "param": None})
    body = error_body(path, kind, None, "No.")
    return named(body) if path == MESSAGES else unnamed(body)


def saying(path: str, text: str) -> bytes:
    """An event of content with this text."""
    (event,) = (event for event in good(path) if json.dumps(WORDS[1])[1:-1].encode() in event and b"delta" in event)
    return event.replace(json.dumps(WORDS[1]).encode(), json.dumps(text).encode())


TRAPS = ('\n\ndata: [DONE]\n\n"type":"message_stop" {"type": "response.completed"}', '"error": {"type": "error"}', "é✓")


def trapped(path: str) -> list[bytes]:
    """A good stream whose text speaks of ends and errors."""
    place = place_of_content(path) + 1
    return [*good(path)[:place], *(saying(path, text) for text in TRAPS), *good(path)[place:]]


STREAMS: dict[str, Callable[[str], list[bytes]]] = {
    "good": good,
    "trapped": trapped,
    "error after content": lambda path: [*begun(path), error_event(path)],
    "error before content": lambda path: [*opening(path), error_event(path)],
    "error and then more": lambda path: [*begun(path), error_event(path), *good(path)[-2:]],
    "broken off": begun,
    "broken off before content": opening,
    "broken off within an event": lambda path: [*begun(path), good(path)[-1][:9]],
    "nothing": lambda path: [],
}


@cache
def uncut(case: Case, name: str) -> tuple[bytes, Outcome]:
    """A stream's bytes, and what comes of it event by event."""
    events = STREAMS[name](case.path)
    return b"".join(events), read(case, events)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_cut_anywhere_changes_nothing(case: Case, name: str) -> None:
    data, expected = uncut(case, name)
    assert {place for place in range(len(data) + 1) if read(case, cut(data, [place])) != expected} == set()


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_byte_by_byte_is_all_the_same(case: Case, name: str) -> None:
    data, expected = uncut(case, name)
    assert read(case, cut(data, range(1, len(data)))) == expected


@pytest.mark.parametrize("case", CASES, ids=str)
@given(name=st.sampled_from(sorted(STREAMS)), drawn=st.data())
def test_any_cuts_change_nothing(case: Case, name: str, drawn: st.DataObject) -> None:
    data, expected = uncut(case, name)
    ends = list(accumulate(len(event) for event in STREAMS[name](case.path))) or [0]
    places = st.integers(0, len(data)) | st.sampled_from(ends)
    assert read(case, cut(data, drawn.draw(st.lists(places, max_size=12)))) == expected


def wild(path: str) -> list[bytes]:
    """Events that a stream in its midst may bring, and what is none."""
    said = saying(path, "a")
    return [
        *(event for name in ("trapped", "error after content") for event in STREAMS[name](path)),
        *(b": wait\n\n", b"\n", b"\r", b"data: {}\n\n", b"event: x.delta\n\n", b"data: {\n\n", b"data: [1]\n\n"),
        *(said, said.replace(b"\n", b"\r\n"), said[:-1], said + said, saying(path, ".delta"), saying(path, "{")),
        *(event.replace(b'"usage"', b'"used"') for event in good(path)),
    ]


@pytest.mark.parametrize("case", NATIVE, ids=str)
@given(drawn=st.data())
def test_a_look_at_a_chunk_as_a_whole_tells_as_much_as_one_at_every_event(case: Case, drawn: st.DataObject) -> None:
    chunk = st.lists(st.sampled_from(wild(case.path)), min_size=1, max_size=4).map(b"".join)
    chunks = [*begun(case.path), *drawn.draw(st.lists(chunk, max_size=6)), good(case.path)[-1]]
    careful = replace(case, kind=Careful)
    assert read(case, chunks) == read(careful, chunks)
    assert used(case, chunks) == used(careful, chunks)


@pytest.mark.parametrize("case", NATIVE, ids=str)
@pytest.mark.parametrize("stream", [good, trapped])
def test_in_the_providers_own_dialect_an_answer_passes_as_it_is(
    case: Case, stream: Callable[[str], list[bytes]]
) -> None:
    events = stream(case.path)
    assert read(case, events) == (b"".join(events), None, "", None)


@pytest.mark.parametrize("case", TRANSLATED, ids=str)
def test_a_translated_answer_says_the_same(case: Case) -> None:
    out, error, *_ = read(case, good(case.path))
    assert error is None
    assert all(word.strip().encode() in out for word in WORDS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_opening_is_held_until_there_is_content(case: Case) -> None:
    stream, place = case.stream(), place_of_content(case.path)
    assert [stream.feed(event) for event in opening(case.path)] == [b""] * place
    first = stream.feed(good(case.path)[place])
    assert first
    assert read(case, good(case.path))[0].startswith(first)
    assert case.translator or first == b"".join(good(case.path)[: place + 1])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", Unavailable),
        ("rate_limit_exceeded", TooManyRequests),
        ("server_error", UpstreamFailed),
        ("invalid_request_error", InvalidRequest),
    ],
)
def test_an_error_is_the_one_that_the_provider_reports(case: Case, kind: str, error: type[SwitchboardError]) -> None:
    for before in (opening(case.path), begun(case.path)):
        assert read(case, [*before, error_event(case.path, kind)])[1] is error


@pytest.mark.parametrize("case", CASES, ids=str)
def test_before_content_a_fault_leaves_no_trace(case: Case) -> None:
    for events in ([], opening(case.path), [*opening(case.path), error_event(case.path)]):
        out, error, *_ = read(case, events)
        assert (out, error is None) == (b"", False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_after_content_what_came_before_the_fault_goes_out_first(case: Case) -> None:
    came = [*begun(case.path), error_event(case.path)]
    stream = case.stream()
    out = stream.feed(b"".join(came))
    assert out == read(case, begun(case.path))[0]
    assert (stream.stopped, stream.ended) == (True, False)
    with pytest.raises(Unavailable):
        stream.finish()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_answer_without_its_end_is_broken_off(case: Case) -> None:
    *events, _ = good(case.path)
    out, error, message, _ = read(case, events)
    assert out
    assert (error, message) == (UpstreamFailed, "The provider broke off its answer.")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_the_end_ends_it(case: Case) -> None:
    stream = case.stream()
    ended = []
    for event in trapped(case.path):
        stream.feed(event)
        ended.append(stream.ended)
    assert ended == [False] * (len(ended) - 1) + [True]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("junk", [b"data: oops\n\n", b"data: []\n\n", b"data: null\n\n", b"data: \xff\n\n"])
def test_senseless_events_are_the_providers_fault(case: Case, junk: bytes) -> None:
    for before in (opening(case.path), begun(case.path)):
        _, error, message, _ = read(case, [*before, junk])
        assert (error, message) == (UpstreamFailed, "The provider gave no usable answer.")


@pytest.mark.parametrize("case", TRANSLATED, ids=str)
def test_so_are_events_that_fit_nothing(case: Case) -> None:
    junk = unnamed({"type": "content_block_delta", "index": 7, "delta": {}, "choices": 1})
    _, error, message, _ = read(case, [*begun(case.path), junk])
    assert (error, message) == (UpstreamFailed, "The provider gave no usable answer.")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_event_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr("deployments.hosted_stream.MAX_EVENT_BYTES", 2000)
    out, error, message, _ = read(case, [*begun(case.path), b"data: " + b"x" * 3000, good(case.path)[-1]])
    assert out == read(case, begun(case.path))[0]
    assert (error, message) == (UpstreamFailed, "The provider gave no usable answer.")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_so_is_an_answer_that_never_comes_to_its_content(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr("deployments.hosted_stream.MAX_EVENT_BYTES", 5000)
    *_, frame = opening(case.path)
    out, error, message, _ = read(case, [*opening(case.path), *[frame] * 200])
    assert (out, error, message) == (b"", UpstreamFailed, "The provider gave no usable answer.")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_comments_before_content_are_left_out(case: Case) -> None:
    first, *others = good(case.path)
    assert read(case, [b": wait\n\n", first, b": wait\n\n", *others]) == read(case, good(case.path))


def payloads(out: bytes) -> list[bytes | None]:
    return [parse(block).data for block in Splitter(1 << 20).feed(out)]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("case", CASES, ids=str)
@given(drawn=st.data())
def test_other_line_ends_are_understood(case: Case, line_end: bytes, drawn: st.DataObject) -> None:
    data = b"\xef\xbb\xbf" + b"".join(good(case.path)).replace(b"\n", line_end)
    places = drawn.draw(st.lists(st.integers(0, len(data)), max_size=12))
    out, error, *_ = read(case, cut(data, places))
    assert error is None
    assert payloads(out) == payloads(read(case, good(case.path))[0])


def test_the_text_of_a_translated_answer_is_whole() -> None:
    out, *_ = read(TRANSLATED[1], good(MESSAGES))
    chunks = [json.loads(data) for data in payloads(out) if data and data != b"[DONE]"]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]) == TEXT


def told_at_the_start(path: str) -> list[Count]:
    """Anthropic counts the prompt before it answers."""
    return [Count(INPUT, REPORTED, USAGE[0]), Count(CACHED_INPUT, REPORTED, 0)] if path == MESSAGES else []


def without_usage(path: str) -> list[bytes]:
    """A good stream whose provider tells nothing of its usage."""
    return [event.replace(b'"usage"', b'"used"') for event in good(path) if b'"choices": []' not in event]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_usage_that_the_provider_reports_is_counted(case: Case) -> None:
    counts = {(count.kind, count.source): count.tokens for count in used(case, good(case.path))}
    assert counts.pop((CACHED_INPUT, REPORTED), 0) == 0
    assert counts == {(INPUT, REPORTED): USAGE[0], (OUTPUT, REPORTED): USAGE[1]}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["broken off", "broken off within an event", "error after content"])
def test_of_an_answer_that_breaks_off_what_came_is_counted(case: Case, name: str) -> None:
    assert used(case, STREAMS[name](case.path)) == [*told_at_the_start(case.path), Count(OUTPUT, ESTIMATED, 2)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["broken off before content", "error before content"])
def test_before_content_there_is_no_output(case: Case, name: str) -> None:
    assert used(case, STREAMS[name](case.path)) == told_at_the_start(case.path)


@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_without_usage_the_events_with_content_are_counted(case: Case) -> None:
    # OpenAI's older streams end with an event of its own for the reason, which stands for the token that ends a text.
    ends = 1 if case.path in (CHAT, COMPLETIONS) else 0
    assert used(case, without_usage(case.path)) == [Count(OUTPUT, ESTIMATED, len(WORDS) + ends)]


def test_a_response_that_fails_tells_what_it_used() -> None:
    failed = {"status": "failed", "error": {"code": "server_error"}, "usage": {"input_tokens": 7, "output_tokens": 2}}
    events = [*begun(RESPONSES), named({"type": "response.failed", "response": failed})]
    assert used(Case(RESPONSES), events) == [Count(INPUT, REPORTED, 7), Count(OUTPUT, REPORTED, 2)]


def test_of_counts_in_every_event_the_last_is_in_force() -> None:
    events = [
        event.replace(b'"usage": null', b'"usage": {"prompt_tokens": 7, "completion_tokens": %d}' % number)
        for number, event in enumerate(begun(CHAT), 10)
    ]
    assert used(Case(CHAT), events) == [Count(INPUT, REPORTED, 7), Count(OUTPUT, REPORTED, 12)]


@pytest.mark.parametrize("case", CASES, ids=str)
@given(name=st.sampled_from(sorted(STREAMS)), drawn=st.data())
def test_cuts_and_translation_change_no_count(case: Case, name: str, drawn: st.DataObject) -> None:
    events = STREAMS[name](case.path)
    data = b"".join(events)
    pieces = cut(data, drawn.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    assert used(case, pieces) == used(Case(case.path), events)


@pytest.mark.parametrize(
    "junk", [b'{"usage": {"prompt_tokens": oops}}', b'{"usage": {"prompt_tokens": 1%b}}' % (b"0" * 5000)]
)
def test_counting_changes_nothing_of_what_passes(junk: bytes) -> None:
    *events, done = good(CHAT)
    wild = [*events, b"data: %b\n\n" % junk, done]
    assert read(Case(CHAT), wild) == (b"".join(wild), None, "", None)
