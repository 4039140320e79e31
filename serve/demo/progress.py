"""Progress of a long step: one line, rewritten on a terminal and repeated now and then in a log."""

from __future__ import annotations

import sys
import time

# Seconds between two lines, on a terminal and in a log.
_TERMINAL_EVERY_S, _LOG_EVERY_S = 0.2, 10.0


class Progress:
    """Says how far the step `name` is. Writes to standard error."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._next = self._began + (0.0 if self._terminal else _LOG_EVERY_S)

    def at(self, done: float, note: str = "") -> None:
        """`done` goes from 0 to 1."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        self._write(f"{done:4.0%}  {note}", end="" if self._terminal else "\n")

    def finish(self, note: str = "") -> None:
        self._write(f"done in {time.monotonic() - self._began:.0f} s  {note}", end="\n")

    def _write(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._terminal else ""
        print(f"{start}  {self._name:<22} {text.rstrip()}", end=end, file=sys.stderr, flush=True)
