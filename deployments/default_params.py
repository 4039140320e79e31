"""Default parameters, which the config gives once for all endpoints of a model, as each endpoint takes them."""

from __future__ import annotations

from serve.api.endpoints import Kind
from serve.schemas import Json

_TAKE_NONE = frozenset({Kind.EMBEDDING, Kind.COUNT_TOKENS})
"""Nothing is generated there, and some servers refuse parameters of generation."""
_LENGTH = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The names that the endpoints have for one and the same bound."""


def completed(kind: Kind, request: Json, defaults: Json) -> Json:
    """`request` with what it leaves out. What it says itself is never changed."""
    if kind in _TAKE_NONE:
        return request
    known = {name: value for name, value in defaults.items() if name not in _LENGTH}
    bounds = [defaults[name] for name in _LENGTH if name in defaults]
    if bounds and not request.keys() & set(_LENGTH):
        known["max_output_tokens" if kind is Kind.RESPONSE else "max_tokens"] = bounds[0]
    return known | request
