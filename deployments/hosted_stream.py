"""One streamed answer of a hosted provider, on its way to the client."""

from __future__ import annotations

import json

from serve.errors import SwitchboardError, UpstreamFailed
from serve.schemas import Json
from serve.translate.provider_events import STREAMS, error_in, is_content, is_filtered
from serve.translate.sse import EventTooLong, Splitter, parse
from serve.translate.translator import Incomplete, Translator
from serve.translate.usage import Count, Usage, may_hold_usage
from serve.translate.vendor_errors import from_event

MAX_EVENT_BYTES = 8 << 20
"""Also of all events before the first content."""
DONE = b"[DONE]"
_BROKEN = "The provider broke off its answer."
SENSELESS = "The provider gave no usable answer."


class HostedStream:
    """Holds back what comes before the first content, so that a failure there is still a status of its own.

    After it, events of the provider's own dialect pass as they are, unparsed but for a look for errors, usage and the
    end; others are translated. Every fault is an `UpstreamFailed`, or the error that the provider reports.
    """

    def __init__(self, path: str, translator: Translator | None, request: Json) -> None:
        self._path = path
        self._rules = STREAMS[path]
        self._translating = translator.stream(request) if translator else None
        self._splitter = Splitter(MAX_EVENT_BYTES)
        self._opening: list[bytes] | None = []
        self._opening_bytes = 0
        self.ended = False
        """Whether the answer is whole."""
        self.filtered = False
        """Whether a filter left nothing of the answer. Known with the first bytes that may be passed on."""
        self._fault: SwitchboardError | None = None
        self._usage = Usage(path)
        self._pieces = 0

    @property
    def stopped(self) -> bool:
        """Whether nothing more of it is to be read."""
        return self.ended or self._fault is not None

    def tokens(self) -> list[Count]:
        """What the answer used, as far as it has come."""
        return self._usage.counts(self._pieces)

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on now."""
        if self._passes(chunk):
            self._pieces += self._rules.pieces(chunk)
            return chunk
        ready: list[bytes] = []
        try:
            for block in self._splitter.feed(chunk):
                if not self.ended:
                    ready.append(self._take(block))
        except (SwitchboardError, EventTooLong) as error:
            fault = error if isinstance(error, SwitchboardError) else UpstreamFailed(SENSELESS)
            if not any(ready):
                raise fault from None
            # How a stream is cut must not change what the client reads: what came before the fault goes out first.
            self._fault = fault
        return b"".join(ready)

    def finish(self) -> bytes:
        """The last events. To be called at the end of the provider's stream."""
        if self._fault is not None:
            raise self._fault
        if not self.ended:
            raise UpstreamFailed(_BROKEN)
        if self._translating is None:
            return b"".join(self._opening or ())
        try:
            return b"".join(self._opening or ()) + self._translating.finish()
        except Incomplete:
            raise UpstreamFailed(_BROKEN) from None

    def _passes(self, chunk: bytes) -> bool:
        """Whether a look at the chunk as a whole is enough: nearly all are one event or a few, of a piece each."""
        return (
            self._opening is None
            and self._translating is None
            and self._splitter.empty
            and not self.stopped
            and self._rules.are_plain(chunk)
            and not may_hold_usage(chunk)
        )

    def _take(self, block: bytes) -> bytes:
        if self._opening is None and self._translating is None and self._rules.is_plain(block):
            self._pieces += self._rules.piece in block
            if may_hold_usage(block):
                self._usage.read_block(block)
            return block
        event = parse(block)
        if event.data is None:
            return b""
        if event.data == DONE:
            self.ended = self._rules.done
            return b"" if self._translating else self._release(block)
        payload = _parsed(event.data)
        self._usage.read(payload)
        if (error := error_in(payload)) is not None:
            raise from_event(error)
        out = self._translated(block, payload)
        self.ended = self._rules.is_end(payload)
        if (opening := self._opening) is not None:
            if not is_content(self._path, payload):
                self._opening_bytes += len(block)
                if self._opening_bytes > MAX_EVENT_BYTES:
                    raise UpstreamFailed(SENSELESS)
                opening.append(out)
                return b""
            self.filtered = is_filtered(self._path, payload)
        self._pieces += self._rules.piece in block
        return self._release(out)

    def _translated(self, block: bytes, payload: Json) -> bytes:
        if self._translating is None:
            return block
        try:
            return self._translating.feed(payload)
        except Incomplete:
            raise UpstreamFailed(SENSELESS) from None

    def _release(self, out: bytes) -> bytes:
        held, self._opening = self._opening or [], None
        return b"".join([*held, out])


def _parsed(data: bytes) -> Json:
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise UpstreamFailed(SENSELESS)
    return payload
