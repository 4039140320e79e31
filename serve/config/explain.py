"""Pydantic's errors as faults: in the file's own paths, in one tone, without any configured value."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from serve.config.base import Section
from serve.config.faults import Fault, nearest
from serve.config.shape import is_section, keys, locate

UNKNOWN_KEY = "unknown key"


def faults_of(error: ValidationError, top: type[Section]) -> list[Fault]:
    """Every fault that validating against `top` brought up."""
    details = error.errors(include_url=False, include_context=True, include_input=True)
    return [_fault(dict(detail), top) for detail in details]


def is_unknown_key(fault: Fault) -> bool:
    return fault.message.startswith(UNKNOWN_KEY)


def _fault(detail: dict[str, Any], top: type[Section]) -> Fault:
    loc, _ = locate(top, detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        _, parent = locate(top, detail["loc"][:-1])
        return Fault(loc, UNKNOWN_KEY + nearest(str(loc[-1]), keys(parent) if is_section(parent) else ()))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_variant(detail, loc)
    if kind == "value_error":
        return Fault(loc, str(context["error"]))
    if kind == "missing":
        return Fault(loc, "is required")
    if kind == "invalid-json-value":
        return Fault(loc, "holds a value that JSON does not have")
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return Fault(loc, "should be a mapping")
    return Fault(loc, _reworded(detail["msg"]) + _hint(kind, detail.get("input")))


def _unknown_variant(detail: dict[str, Any], loc: tuple[str | int, ...]) -> Fault:
    context = detail["ctx"]
    key = context["discriminator"].strip("'")
    if "expected_tags" not in context:
        return Fault((*loc, key), "is required")
    return Fault((*loc, key), f"is not supported; supported: {context['expected_tags']}")


def _reworded(message: str) -> str:
    for start in ("Input should ", "Value should ", "String should ", "Tuple should ", "Dictionary should "):
        if message.startswith(start):
            message = "should " + message.removeprefix(start)
    for pydantic_word, yaml_word in (
        ("a valid string", "text"),
        ("a valid integer", "a whole number"),
        ("a valid number", "a number"),
        ("a valid boolean", "true or false"),
        ("a valid tuple", "a list"),
        (" after validation", ""),
    ):
        message = message.replace(pydantic_word, yaml_word)
    return message


def _hint(kind: str, value: object) -> str:
    """YAML reads `1.0`, `on` and `2026-01-01` as other things than text."""
    if kind == "string_type" and value is not None and not isinstance(value, (list, dict)):
        return f"; YAML reads {type(value).__name__} here, so quote it"
    return ""
