"""The documentation's pages and the snippets in them."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

FENCE = re.compile(r"^( *)```(?P<language>\w*)\n(?P<text>.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its snippets."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def snippets(language: str, about: str = "") -> list[Any]:
    """Parameters for a test: every snippet in `language` that holds `about`, with its place for a name."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            snippet = dedent(fence["text"])
            if fence["language"] == language and about in snippet:
                line = text.count("\n", 0, fence.start()) + 1
                found.append(pytest.param(snippet, id=f"{name(page)}:{line}"))
    return found
