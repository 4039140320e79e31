"""`${NAME}` and `${NAME:-default}` in any text of the configuration: values that come from the environment.

`${NAME}` must be set and not empty. `${NAME:-default}` takes the default when it is unset or empty, as in a
shell. `$$` is a plain `$`. What a variable holds is never expanded again, nor are the keys of mappings.

A text that is one reference and nothing else may stand for a number or a truth value too: `${PORT:-8000}`.
Where it comes out empty (`${NAME:-}`), its key or list entry is left out, and the default is in force.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serve.config.faults import Fault, Loc

MAX_DEPTH = 32
MAX_VALUES = 100_000

_TOKEN = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^${}]*))?\}|\$")


class FromReference(str):
    """A text that one reference gave whole: YAML could not see its type, so the schema may."""

    __slots__ = ()


def expand(value: Any, env: Mapping[str, str]) -> tuple[Any, list[Fault]]:
    """A copy of `value` (what YAML gives) with references replaced, and those that could not be.

    Those keep their text, so that the place still holds something. Nesting deeper than `MAX_DEPTH` levels and
    more than `MAX_VALUES` values are faults: YAML's aliases make both out of a few lines.
    """
    expansion = _Expansion(env)
    copy = expansion.copy(value, ())
    return copy, expansion.faults


class _Expansion:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._values = 0
        self.faults: list[Fault] = []

    def copy(self, value: Any, loc: Loc) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            if self._values == MAX_VALUES + 1:
                self.faults.append(Fault(loc[:1], f"holds more than {MAX_VALUES} values"))
            return None
        if len(loc) > MAX_DEPTH:
            self.faults.append(Fault(loc[:1], f"is nested deeper than {MAX_DEPTH} levels"))
            return None
        if isinstance(value, str):
            return self._text(value, loc)
        if isinstance(value, Mapping):
            keys = {key: self._key(key, loc) for key in value}
            pairs = [(keys[key], self.copy(item, (*loc, keys[key]))) for key, item in value.items()]
            return {key: item for key, item in pairs if not _is_left_out(item)}
        if isinstance(value, (list, tuple)):
            items = (self.copy(item, (*loc, index)) for index, item in enumerate(value))
            return [item for item in items if not _is_left_out(item)]
        return value

    def _key(self, key: Any, loc: Loc) -> str:
        if isinstance(key, str):
            self._refuse_half_a_character(key, (*loc, key))
            return key
        text = str(key)[:80]
        self.faults.append(Fault((*loc, text), f"is a key that YAML reads as {type(key).__name__}: quote it"))
        return text

    def _text(self, text: str, loc: Loc) -> str:
        found = len(self.faults)
        expanded = _TOKEN.sub(lambda token: self._token(token, loc), text) if "$" in text else text
        self._refuse_half_a_character(expanded, loc)
        if len(self.faults) > found:
            return text
        whole = _TOKEN.fullmatch(text)
        return FromReference(expanded) if whole and whole["name"] else expanded

    def _refuse_half_a_character(self, text: str, loc: Loc) -> None:
        """Which YAML's escapes can make, and a variable that is not UTF-8: JSON in UTF-8 could not hold it."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.faults.append(Fault(loc, "holds half a character (a lone surrogate)"))

    def _token(self, token: re.Match[str], loc: Loc) -> str:
        if token[0] == "$$":
            return "$"
        name, default = token["name"], token["default"]
        if name is None:
            message = "has a '$' that begins no ${NAME} or ${NAME:-default}; a plain '$' is written '$$'"
            self.faults.append(Fault(loc, message))
            return ""
        value = self._env.get(name, "")
        if value or default is not None:
            return value or default
        state = "is empty" if name in self._env else "is not set"
        message = f"the environment variable {name} {state}; ${{{name}:-default}} would do without it"
        self.faults.append(Fault(loc, message))
        return ""


def _is_left_out(value: Any) -> bool:
    return isinstance(value, FromReference) and not value
