"""How the values of a request for `/v1/responses` are read for the chat API: what is null is not there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.fields import inside
from serve.translate.translator import refuse

UNAVAILABLE = "is not available for this model"
NOTHING_STORED = f"{UNAVAILABLE}: nothing is stored. Send the whole conversation as 'input'."

_TYPES: dict[str, tuple[type, ...]] = {
    "a string": (str,),
    "a number": (int, float),
    "an integer": (int,),
    "true or false": (bool,),
    "an object": (dict,),
    "an array": (list,),
}


def typed(value: Any, kind: str, field: str) -> Any:
    """`value`, if it is one of `_TYPES`."""
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "true or false"):
        raise InvalidRequest(f"'{field}' must be {kind}.", field, "invalid_type")
    return value


def string(value: Any, field: str) -> str:
    return str(typed(value, "a string", field))


def one_of(value: Any, choices: tuple[str, ...], field: str) -> Any:
    if value not in choices:
        raise InvalidRequest(f"'{field}' must be one of {', '.join(choices)}.", field, "invalid_value")
    return value


def fields(value: Any, at: str, known: Iterable[str]) -> Json:
    """The fields of the object at `at` that are not null; all must be `known`."""
    given = {name: of for name, of in typed(value, "an object", at).items() if of is not None}
    for name in given:
        if name not in known:
            raise refuse(inside(at, name[:64]), f"{UNAVAILABLE}.")
    return given


def required(given: Json, name: str, at: str) -> Any:
    field = inside(at, name)
    if name not in given:
        raise InvalidRequest(f"'{field}' is required.", field, "missing_required_parameter")
    return given[name]


def text_of(given: Json, name: str, at: str) -> str:
    return string(required(given, name, at), f"{at}.{name}")


def optional(given: Json, at: str, kinds: dict[str, str]) -> Json:
    """Those of the fields in `kinds` that are given, each of its kind."""
    return {name: typed(given[name], kind, inside(at, name)) for name, kind in kinds.items() if name in given}


def items(value: Any, at: str) -> list[tuple[str, Any]]:
    """The array at `at`, each item with its own place."""
    return [(f"{at}[{i}]", item) for i, item in enumerate(typed(value, "an array", at))]


def type_of(value: Any, at: str, default: str | None = None) -> str:
    """What the object at `at` says that it is."""
    given = {name: of for name, of in typed(value, "an object", at).items() if of is not None}
    if default is not None:
        given.setdefault("type", default)
    return text_of(given, "type", at)


def wrong_type(kind: str, at: str) -> InvalidRequest:
    return refuse(f"{at}.type", f"is {kind[:64]!r}, which {UNAVAILABLE}.")
