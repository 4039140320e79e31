"""Text of others (callers, files, configurations), made safe to repeat in a message or a log line."""

from __future__ import annotations

SHOWN_CHARS = 80


def printable(text: str, limit: int = SHOWN_CHARS) -> str:
    """`text` on one line, without control characters, in at most `limit` characters.

    Line ends, NUL, ANSI escapes, bidirectional overrides and lone surrogates (which JSON can carry and UTF-8 cannot)
    come out as their Python escapes.
    """
    if len(text) <= limit and text.isprintable():
        return text
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    if len(text) <= limit and len(kept) <= limit:
        return kept
    return kept[: limit - 1] + "…"


def quoted(text: str) -> str:
    """`text`, printable, between single quotes."""
    return f"'{printable(text)}'"
