"""Keeps a relayed stream cut at the ends of events, without looking into them."""

from __future__ import annotations

ENDS = (b"\n\n", b"\n\r\n")
"""How an event ends: `\\r\\n\\r\\n` with the second of them."""
MAX_HELD_BYTES = 1 << 20
"""A single event longer than this is passed on in pieces."""


class WholeEvents:
    """Passes on what ends with an event's blank line and holds back what does not.

    When a stream breaks off inside an event, the client has then seen whole events only, and the error event that
    follows is not taken for the rest of a torn one. Line ends: WHATWG HTML, server-sent events, section 9.2.5.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk, give what may be passed on now (often the chunk itself, sometimes nothing)."""
        data = self._held + chunk if self._held else chunk
        if data.endswith(b"\n\n"):
            self._held = b""
            return data
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        if end < 3:
            if len(data) <= MAX_HELD_BYTES:
                self._held = data
                return b""
            end = len(data)
        self._held = data[end:]
        return data[:end]

    @property
    def rest(self) -> bytes:
        """What is held at the stream's regular end."""
        return self._held
