from typing import Any

import pytest
from typing_extensions import override

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.chained import Chained
from serve.translate.translator import Incomplete, StreamTranslator, Translator, event, refuse


class Wrapping(Translator):
    """Puts its name around whatever it is given, so that a test sees who did what, and in which order."""

    def __init__(self, name: str, stream: StreamTranslator | None = None) -> None:
        self.name = name
        self.streamed: list[Json] = []
        self._stream = stream

    @property
    @override
    def path(self) -> str:
        return f"/v1/{self.name}"

    @override
    def request(self, body: Json) -> Json:
        if "bad" in body:
            raise refuse("bad", "is bad.")
        return {self.name: body}

    @override
    def clients_field(self, field: str, body: Json) -> str:
        return f"{field}.of.{'.'.join(body)}"

    @override
    def response(self, answer: Json, request: Json) -> Json:
        return {self.name: answer, "asked": request}

    @override
    def stream(self, request: Json) -> StreamTranslator:
        self.streamed.append(request)
        assert self._stream is not None
        return self._stream


class Outer(StreamTranslator):
    @override
    def feed(self, event: Json) -> bytes:
        return f"<{event['n']}>".encode()

    @override
    def finish(self) -> bytes:
        return b"<end>"


class Inner(StreamTranslator):
    """Says `says[i]` for the i-th event, and `last` at the end."""

    def __init__(self, *says: bytes, last: bytes = b"") -> None:
        self._says = list(says)
        self._last = last

    @override
    def feed(self, event: Json) -> bytes:
        return self._says.pop(0)

    @override
    def finish(self) -> bytes:
        return self._last


def stream(*says: bytes, last: bytes = b"") -> StreamTranslator:
    return Chained(Wrapping("outer", Outer()), Wrapping("inner", Inner(*says, last=last))).stream({})


def test_the_provider_is_asked_where_the_inner_says() -> None:
    assert Chained(Wrapping("outer"), Wrapping("inner")).path == "/v1/inner"


def test_a_request_goes_inwards() -> None:
    assert Chained(Wrapping("outer"), Wrapping("inner")).request({"a": 1}) == {"inner": {"outer": {"a": 1}}}


def test_an_answer_goes_outwards_and_each_is_shown_the_request_in_its_own_format() -> None:
    assert Chained(Wrapping("outer"), Wrapping("inner")).response({"b": 2}, {"a": 1}) == {
        "outer": {"inner": {"b": 2}, "asked": {"outer": {"a": 1}}},
        "asked": {"a": 1},
    }


def test_a_refusal_of_either_comes_through() -> None:
    with pytest.raises(InvalidRequest, match="'bad' is bad"):
        Chained(Wrapping("outer"), Wrapping("inner")).request({"bad": 1})


def test_a_refusal_of_the_inner_names_the_clients_field() -> None:
    class Refusing(Wrapping):
        @override
        def request(self, body: Json) -> Json:
            raise refuse("given", "is not 'given' well.")

    with pytest.raises(InvalidRequest, match=r"^'given.of.a' is not 'given' well") as caught:
        Chained(Wrapping("outer"), Refusing("inner")).request({"a": 1})
    assert (caught.value.param, caught.value.code) == ("given.of.a", "unsupported_parameter")


def test_each_streams_the_request_in_its_own_format() -> None:
    outer, inner = Wrapping("outer", Outer()), Wrapping("inner", Inner())
    Chained(outer, inner).stream({"a": 1})
    assert outer.streamed == [{"a": 1}]
    assert inner.streamed == [{"outer": {"a": 1}}]


def test_every_event_between_them_is_passed_on_at_once() -> None:
    chained = stream(b"", event({"n": 1}) + event({"n": 2}), event({"n": 3}, "named"), last=event({"n": 4}))
    assert chained.feed({}) == b""
    assert chained.feed({}) == b"<1><2>"
    assert chained.feed({}) == b"<3>"
    assert chained.finish() == b"<4><end>"


def test_comments_and_the_end_of_a_chat_stream_are_not_passed_on() -> None:
    chained = stream(b": ping\n\n", last=event({"n": 1}) + b"data: [DONE]\n\n")
    assert chained.feed({}) == b""
    assert chained.finish() == b"<1><end>"


@pytest.mark.parametrize("said", [b"data: {", b"data: {\n\n", b"data: 5\n\n", b"data: \xff\n\n"])
def test_what_is_no_event_between_them_is_incomplete(said: Any) -> None:
    with pytest.raises(Incomplete):
        stream(said).feed({})
