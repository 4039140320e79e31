"""From plain data to one section of the schema, with every fault on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from serve.config.base import Section
from serve.config.explain import faults_of, is_unknown_key
from serve.config.faults import Fault, Loc

S = TypeVar("S", bound=Section)


def parse(section: type[S], data: Any, known: Sequence[Fault] = ()) -> tuple[S | None, list[Fault]]:
    """`data` (changed: unknown keys are taken out) as a `section`, or None, and what is wrong with it.

    Pydantic holds a section's rules between keys back while one key is unknown. So the unknown keys are set
    aside first and the rest is validated again: a slip of the pen hides nothing. What lies within a `known`
    fault is not reported twice.
    """
    value, faults = _validate(section, data)
    unknown = [fault for fault in faults if is_unknown_key(fault)]
    if unknown:
        for fault in unknown:
            _take_out(data, fault.loc)
        value, faults = _validate(section, data)
    return value, [f for f in unknown + faults if not any(f.within(old.loc) for old in known)]


def _validate(section: type[S], data: Any) -> tuple[S | None, list[Fault]]:
    try:
        return section.model_validate(data), []
    except ValidationError as error:
        return None, faults_of(error, section)


def _take_out(data: Any, loc: Loc) -> None:
    for part in loc[:-1]:
        data = data[part]
    del data[loc[-1]]
