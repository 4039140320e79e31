"""Names that come from files or callers, made safe to repeat in an error or a log line."""

from __future__ import annotations

_MAX_CHARS = 80


def quoted(text: str) -> str:
    """`text` in quotes: on one line, without control characters, at most 80 characters of it."""
    head = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:_MAX_CHARS])
    return f"'{head}'" if len(text) <= _MAX_CHARS else f"'{head}…'"
