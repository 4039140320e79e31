"""What the readers of several request formats have in common, whoever's rules they go by.

A field is named by its path, `messages[2].content`. Where the vendors' rules differ, in what a null is or how a fault
is worded, each translation has readers of its own.
"""

from __future__ import annotations

from serve.errors import InvalidRequest
from serve.schemas import Json


def inside(at: str, name: str) -> str:
    """The path of the field `name` of the object at `at`, which is empty for the request itself."""
    return f"{at}.{name}" if at else name


def malformed(field: str, why: str) -> InvalidRequest:
    """The error for a value that is wrong by the vendor's own rules, or missing. `why` follows the field's name."""
    return InvalidRequest(f"'{field}' {why}", field)


def flag(found: Json, name: str, at: str = "") -> bool | None:
    """None where the switch is null or absent."""
    value = found.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed(inside(at, name), "must be true or false.")
    return value
