"""What the schema is made of: the section, and the kinds of value that its keys take.

YAML's types are kept apart strictly: `"8"` is no number and `1` is no truth value, except where a reference
to the environment stands in for one (`FromReference`), since the environment knows only text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)
from pydantic.types import Strict

from serve.config.references import FromReference

MAX_PARAMS_CHARS = 65_536
GIB = 1024**3


class Section(BaseModel):
    """A mapping with known keys. Immutable; unknown keys are refused; errors show no configured value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts, as the documentation prints it."""

    name: str


def _read_as(read: Callable[[str], Any]) -> BeforeValidator:
    def convert(value: Any) -> Any:
        if not isinstance(value, FromReference):
            return value
        try:
            return read(value)
        except ValueError:
            return value  # which the strict type behind this refuses in its own words

    return BeforeValidator(convert)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _matches(pattern: str, rule: str) -> AfterValidator:
    allowed = re.compile(pattern)

    def check(text: str) -> str:
        if not allowed.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


Int: TypeAlias = Annotated[int, Strict(), _read_as(int)]
Float: TypeAlias = Annotated[float, Strict(), Field(allow_inf_nan=False), _read_as(float)]
Bool: TypeAlias = Annotated[bool, Strict(), _read_as(_truth)]
Text: TypeAlias = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=4096)]

Seconds: TypeAlias = Annotated[Float, Unit("s")]
Gib: TypeAlias = Annotated[Float, Unit("GiB")]
Mib: TypeAlias = Annotated[Float, Unit("MiB")]
Tokens: TypeAlias = Annotated[Int, Unit("tokens")]

Name: TypeAlias = Annotated[
    str,
    Strict(),
    _matches(
        r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}",
        "must be 1 to 128 letters, digits, '.', '_', '/' or '-', the first a letter or digit",
    ),
]
"""A model, adapter or bot. No `:` and no `@`, which part `model:adapter@version`."""


Names: TypeAlias = Annotated[
    tuple[Name, ...], BeforeValidator(lambda names: [names] if isinstance(names, str) else names), Field(max_length=8)
]
"""Some of them in order; a single one may stand without a list."""


def _no_digest(label: str) -> str:
    if re.fullmatch(r"[0-9a-f]{12}", label):
        raise ValueError("must not be 12 hexadecimal digits: it could be taken for a digest")
    return label


Label: TypeAlias = Annotated[
    str,
    Strict(),
    _matches(r"[A-Za-z0-9._-]{1,64}", "must be 1 to 64 letters, digits, '.', '_' or '-'"),
    AfterValidator(_no_digest),
]
"""The operator's name for one version of an adapter."""


def _read_json(value: Any) -> Any:
    """References inside free-form values become the JSON number, truth value or null that they look like."""
    if isinstance(value, FromReference):
        try:
            read = json.loads(value)
        except ValueError:
            return str(value)
        return str(value) if isinstance(read, (str, dict, list)) else read
    if isinstance(value, dict):
        return {key: _read_json(item) for key, item in value.items()}
    return [_read_json(item) for item in value] if isinstance(value, list) else value


def _jsonable(values: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    try:
        text = json.dumps(values, allow_nan=False)
    except ValueError:
        raise ValueError("holds a number that JSON cannot carry (.nan, .inf, or far too long)") from None
    if len(text) > MAX_PARAMS_CHARS:
        raise ValueError(f"is longer than {MAX_PARAMS_CHARS} characters as JSON")
    return values


JsonMapping: TypeAlias = Annotated[
    Mapping[Annotated[str, Strict()], JsonValue], BeforeValidator(_read_json), AfterValidator(_jsonable)
]
"""Free-form: text keys, JSON values."""

_SET_BY_REQUEST = frozenset(
    {"model", "messages", "prompt", "input", "stream", "api_key", "api_base", "base_url", "extra_headers"}
)


def _defaults_only(params: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    if refused := sorted(_SET_BY_REQUEST & params.keys()):
        raise ValueError(f"must not set {', '.join(refused)}: that is for the request to say")
    return params


Params: TypeAlias = Annotated[JsonMapping, AfterValidator(_defaults_only)]
"""Request parameters, filled in where the request leaves them out."""
