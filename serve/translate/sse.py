"""Server-sent events, cut out of a byte stream (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event went past the splitter's bound without ending."""


@dataclass(frozen=True, slots=True)
class Event:
    """What one block says. `name` is None for an unnamed event; `data` is None where the block has none."""

    name: str | None
    data: bytes | None


class Splitter:
    """Cuts a stream into blocks, each with the blank line that ends it, however it was chunked.

    At most `limit` bytes of an unfinished block are held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = b""
        self._searched = 0
        self._split_line_end = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The blocks that `chunk` completes.

        Raises: EventTooLong.
        """
        data = self._held + self._without_rest_of_line_end(chunk)
        if not self._started and not _BOM.startswith(data):
            data, self._started = data.removeprefix(_BOM), True
        blocks: list[bytes] = []
        start, search = 0, self._searched
        while match := _BLANK_LINE.search(data, search):
            blocks.append(data[start : match.end()])
            start = search = match.end()
        self._held = data[start:]
        # A blank line has at most four bytes: the next search may begin inside one that is cut in two.
        self._searched = max(0, len(self._held) - 3)
        self._split_line_end = bool(blocks) and not self._held and blocks[-1].endswith(b"\r")
        if len(self._held) > self._limit:
            raise EventTooLong
        return blocks

    @property
    def empty(self) -> bool:
        """Whether the stream so far ended with a whole block."""
        return not self._held and not self._split_line_end

    def _without_rest_of_line_end(self, chunk: bytes) -> bytes:
        """A block may have ended in CR whose LF comes with the next chunk."""
        if self._split_line_end and chunk:
            self._split_line_end = False
            return chunk.removeprefix(b"\n")
        return chunk


def parse(block: bytes) -> Event:
    """Read one block: fields by the specification, comments and unknown fields left out."""
    name: str | None = None
    data: list[bytes] = []
    for line in _LINE_END.split(block):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace") or None
    return Event(name, b"\n".join(data) if data else None)
