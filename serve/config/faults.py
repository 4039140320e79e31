"""What is wrong with a configuration: where, and what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple, TypeAlias

Loc: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top: keys of mappings and indexes of lists, as pydantic counts them."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Fault(NamedTuple):
    """One fault. `message` continues the sentence that the path begins, and never shows a secret."""

    loc: Loc
    message: str

    @property
    def path(self) -> str:
        """`models[2].engine.max_loras`; a key that is no plain word is quoted: `bots['a b'].model`."""
        parts = [_part(part) for part in self.loc]
        return "".join(parts).removeprefix(".") or "(top)"

    def under(self, *prefix: str | int) -> Fault:
        return Fault((*prefix, *self.loc), self.message)

    def within(self, loc: Loc) -> bool:
        """Whether this fault lies at `loc` or below it."""
        return self.loc[: len(loc)] == loc


def _part(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN_KEY.fullmatch(part) else f"[{part[:80]!r}]"


def lines(faults: Iterable[Fault]) -> tuple[str, ...]:
    """`path: message` for each, ordered by path, each once."""
    ordered = sorted(faults, key=lambda fault: [(isinstance(part, str), part) for part in fault.loc])
    return tuple(dict.fromkeys(f"{fault.path}: {fault.message}" for fault in ordered))


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of `known` is close to `word`, else nothing."""
    close = get_close_matches(word[:128], list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
