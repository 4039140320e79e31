"""Two translators, one behind the other: Responses → chat → Anthropic."""

from __future__ import annotations

import json

from typing_extensions import override

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.sse import EventTooLong, Splitter, parse
from serve.translate.translator import Incomplete, StreamTranslator, Translator


class Chained(Translator):
    """`outer` knows the client's format, `inner` the provider's; between them both speak the same one.

    Where `inner` refuses a request, `outer` knows what the client calls the field.
    """

    def __init__(self, outer: Translator, inner: Translator) -> None:
        self._outer = outer
        self._inner = inner

    @property
    @override
    def path(self) -> str:
        return self._inner.path

    @override
    def request(self, body: Json) -> Json:
        between = self._outer.request(body)
        try:
            return self._inner.request(between)
        except InvalidRequest as error:
            if error.param is None:
                raise
            field = self._outer.clients_field(error.param, body)
            message = error.message.replace(f"'{error.param}'", f"'{field}'", 1)
            raise InvalidRequest(message, field, error.code) from error

    @override
    def response(self, answer: Json, request: Json) -> Json:
        between = self._outer.request(request)
        return self._outer.response(self._inner.response(answer, between), request)

    @override
    def stream(self, request: Json) -> StreamTranslator:
        between = self._outer.request(request)
        return _ChainedStream(self._outer.stream(request), self._inner.stream(between))


class _ChainedStream(StreamTranslator):
    def __init__(self, outer: StreamTranslator, inner: StreamTranslator) -> None:
        self._outer = outer
        self._inner = inner
        # Translators give whole events only: there is never a rest to hold.
        self._splitter = Splitter(limit=0)

    @override
    def feed(self, event: Json) -> bytes:
        return self._pass_on(self._inner.feed(event))

    @override
    def finish(self) -> bytes:
        return self._pass_on(self._inner.finish()) + self._outer.finish()

    def _pass_on(self, events: bytes) -> bytes:
        try:
            blocks = self._splitter.feed(events)
        except EventTooLong:
            raise Incomplete("an event between two translators is not whole") from None
        return b"".join(self._outer.feed(payload) for block in blocks if (payload := _payload(block)) is not None)


def _payload(block: bytes) -> Json | None:
    """What an event says; None for a comment and for the `[DONE]` that ends a chat stream."""
    data = parse(block).data
    if data is None or data == b"[DONE]":
        return None
    try:
        payload = json.loads(data)
    except ValueError:
        raise Incomplete("an event between two translators is no JSON") from None
    if not isinstance(payload, dict):
        raise Incomplete("an event between two translators is no object")
    return payload
