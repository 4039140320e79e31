"""`docs/configuration.md` is the schema's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve.config import Settings
from serve.config.base import Section
from serve.config.docs import PAGE, page
from serve.config.shape import bare, element, is_section, keys, variants


def sections(annotation: Any) -> Iterator[type[Section]]:
    inside = bare(annotation)
    if tagged := variants(annotation):
        for variant in tagged.values():
            yield from sections(variant)
    elif is_section(inside):
        yield inside
        for field in keys(inside).values():
            yield from sections(field.annotation)
    elif element(inside) is not None:
        yield from sections(element(inside))


SECTIONS = list(sections(Settings))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m serve.config.docs"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_and_every_key_says_what_it_is(section: type[Section]) -> None:
    assert section.__doc__
    for key, field in keys(section).items():
        assert field.description or next(sections(field.annotation), None), key
        assert f"`{key}`" in page()


def test_every_number_has_its_bounds() -> None:
    numbers = [line for line in page().splitlines() if "| number" in line or "| whole number" in line]
    assert len(numbers) > 30
    assert [line for line in numbers if not re.search(r"number (above|from) \d+ to \d+", line)] == []
