"""The schema's shape, read from its own annotations: for the faults' paths and for the documentation."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag
from pydantic.fields import FieldInfo

from serve.config.base import Section
from serve.config.faults import Loc


def bare(annotation: Any) -> Any:
    """The annotation without `Annotated` and `| None` around it."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def keys(section: type[Section]) -> dict[str, FieldInfo]:
    """The section's fields by the keys that YAML has for them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def element(annotation: Any) -> Any:
    """What a list's entries or a mapping's values are; None for anything else."""
    origin, arguments = get_origin(bare(annotation)), get_args(bare(annotation))
    if origin is tuple:
        return arguments[0]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return arguments[1]
    return None


def variants(annotation: Any) -> dict[str, Any]:
    """The members of a tagged union by tag (`local: LocalModel`); empty for anything else."""
    found: dict[str, Any] = {}
    pending = [annotation]
    while pending:
        at = pending.pop()
        if get_origin(at) is Annotated:
            inner, *marks = get_args(at)
            tags = [mark.tag for mark in marks if isinstance(mark, Tag)]
            found |= {tag: inner for tag in tags}
            pending += [] if tags else [inner]
        elif get_origin(at) in (Union, types.UnionType):
            pending += get_args(at)
    return found


def locate(top: type[Section], loc: Loc) -> tuple[Loc, Any]:
    """A place as pydantic names it: without pydantic's own marks, and what the schema has there.

    Pydantic adds the tag of a union's variant and `[key]` for the key of a mapping; inside free-form values
    the path ends at the entry. The second is None where the schema has nothing.
    """
    path: list[str | int] = []
    at: Any = top
    for part in loc:
        tagged = variants(at)
        if part in tagged:
            at = tagged[str(part)]
        elif part != "[key]":
            if not is_section(bare(at)) and element(at) is None:
                break
            path.append(part)
            at = _member(bare(at), part)
    return tuple(path), bare(at)


def _member(inside: Any, part: str | int) -> Any:
    if not is_section(inside):
        return element(inside)
    field = keys(inside).get(str(part))
    return None if field is None else field.annotation
