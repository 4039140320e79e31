from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serve.gateway.events import MAX_HELD_BYTES, WholeEvents

EVENTS = st.lists(st.sampled_from([b"data: x", b"event: e\ndata: y", b"data: a\ndata: b", b": comment"]), min_size=1)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


@given(EVENTS, st.sampled_from([b"\n", b"\r\n"]), st.lists(st.integers(0, 10_000)), st.sampled_from([b"", b"data: h"]))
def test_however_a_stream_is_cut_only_whole_events_pass(
    events: list[bytes], line_end: bytes, places: list[int], torn: bytes
) -> None:
    whole = b"".join(event.replace(b"\n", line_end) + 2 * line_end for event in events)
    stream = WholeEvents()
    passed = b""
    for chunk in cut(whole + torn, places):
        passed += stream.feed(chunk)
        assert whole.startswith(passed)
        assert passed == b"" or passed.endswith(2 * line_end)
    assert passed == whole
    assert stream.rest == torn


def test_an_endless_event_is_not_held_for_ever() -> None:
    stream = WholeEvents()
    piece = b"x" * 65_536
    passed = b"".join(stream.feed(piece) for _ in range(64))
    assert len(passed) + len(stream.rest) == 64 * len(piece)
    assert len(stream.rest) <= MAX_HELD_BYTES
