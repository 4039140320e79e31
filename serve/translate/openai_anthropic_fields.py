"""How the values of a request in OpenAI's chat format are read for Anthropic: what is null is missing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from serve.schemas import Json
from serve.translate.fields import inside, malformed
from serve.translate.translator import refuse

NOT_CARRIED = "cannot be carried over to this model's provider."
_LONGEST_FIELD = 100


def only(found: Json, field: str, known: Collection[str]) -> None:
    """Refuse a field that nothing here reads, unless it is null."""
    for name, value in found.items():
        if name not in known and value is not None:
            raise refuse(inside(field, name)[:_LONGEST_FIELD], NOT_CARRIED)


def string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise malformed(field, "is required." if value is None else "must be a string.")
    return value


def json_object(value: Any, field: str) -> Json:
    if not isinstance(value, dict):
        raise malformed(field, "is required." if value is None else "must be an object.")
    return value


def array(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise malformed(field, "is required." if value is None else "must be an array.")
    return value
