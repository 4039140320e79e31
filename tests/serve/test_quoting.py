from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.quoting import printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\r\nINFO forged", "a\\r\\nINFO forged"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("x" * 21, "x" * 19 + "…"),
    ],
)
def test_anybodys_text_is_made_printable(text: str, shown: str) -> None:
    assert printable(text, 20) == shown


@given(st.text(st.characters(codec=None)), st.integers(2, 50))
def test_printable_text_is_one_short_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_a_quoted_name_is_whole_up_to_80_characters() -> None:
    assert quoted("x" * 80) == f"'{'x' * 80}'"
    assert quoted("x" * 10**6) == f"'{'x' * 79}…'"
    assert quoted("a\nb") == r"'a\nb'"
