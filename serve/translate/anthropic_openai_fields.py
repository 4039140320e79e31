"""How the values of a request in Anthropic's format are read for OpenAI: what is null is not there."""

from __future__ import annotations

from typing import Any

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.fields import inside, malformed
from serve.translate.translator import refuse

UNSUPPORTED = "is not supported by this model's provider."


def known(value: Any, at: str, *fields: str) -> Json:
    """What the object `value` says: without nulls and cache markers.

    Refuses every field that is not in `fields`, but an empty list, which asks for nothing.
    """
    if not isinstance(value, dict):
        raise malformed(at, "must be an object.")
    found = {field: content for field, content in value.items() if content is not None and field != "cache_control"}
    for field in found:
        if field not in fields and found[field] != []:
            raise refuse(inside(at, str(field)[:100]), UNSUPPORTED)
    return found


def string(found: Json, field: str, at: str) -> str:
    value = found.get(field)
    if not isinstance(value, str):
        raise malformed(inside(at, field), "must be a string.")
    return value


def array(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise malformed(at, "must be a list.")
    return value


def only_as(found: Json, field: str, allowed: Any, at: str) -> None:
    """A field that may only say what would happen anyway."""
    if field in found and found[field] != allowed:
        raise refuse(inside(at, field), UNSUPPORTED)


def unsupported_type(kind: str, at: str) -> InvalidRequest:
    return refuse(f"{at}.type", f"of '{kind[:100]}' {UNSUPPORTED}")
