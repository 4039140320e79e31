from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve.translate.sse import Event, EventTooLong, Splitter, parse


def events(*chunks: bytes) -> list[Event]:
    splitter = Splitter(1000)
    return [parse(block) for chunk in chunks for block in splitter.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event(None, b"a")]),
        (b"data:a\n\n", [Event(None, b"a")]),
        (b"data:  a\n\n", [Event(None, b" a")]),
        (b"data: a\ndata: b\n\n", [Event(None, b"a\nb")]),
        (b"event: x\r\ndata: a\r\n\r\n", [Event("x", b"a")]),
        (b"event: x\rdata: a\r\r", [Event("x", b"a")]),
        (b": keep-alive\n\ndata: a\n\n", [Event(None, None), Event(None, b"a")]),
        (b"id: 1\nretry: 5\nnonsense\ndata\n\n", [Event(None, b"")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(None, b"a")]),
        (b"data: a\n\ndata: torn", [Event(None, b"a")]),
        (b"data: \xc3\xa9\n\n", [Event(None, "é".encode())]),
    ],
)
def test_the_specifications_ways_to_write_an_event(stream: bytes, expected: list[Event]) -> None:
    assert events(stream) == expected


def said(all_events: list[Event]) -> list[Event]:
    return [event for event in all_events if event.data is not None]


pieces = st.sampled_from([b"data: a", b"data", b"event: e", b": c", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf"])


@given(st.lists(pieces, max_size=30).map(b"".join), st.lists(st.integers(0, 100), max_size=8))
@example(b"\n\n\xef\xbb\xbfdata: a\n\n", [2])  # a byte order mark is one at the stream's beginning only
def test_where_a_stream_is_cut_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert said(events(*chunks)) == said(events(stream))


@given(st.lists(pieces, max_size=30).map(b"".join))
def test_nor_does_one_byte_at_a_time(stream: bytes) -> None:
    assert said(events(*(stream[i : i + 1] for i in range(len(stream))))) == said(events(stream))


def test_an_endless_event_is_given_up() -> None:
    splitter = Splitter(100)
    splitter.feed(b"x" * 100)
    with pytest.raises(EventTooLong):
        splitter.feed(b"x")


def test_the_bound_is_on_unfinished_events_only() -> None:
    splitter = Splitter(100)
    assert len(splitter.feed(b"data: a\n\n" * 1000)) == 1000
    assert splitter.empty
    splitter.feed(b"data")
    assert not splitter.empty
