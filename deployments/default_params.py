"""Default parameters, which the config gives once for all endpoints of a model, as each endpoint takes them."""

from __future__ import annotations

from collections.abc import Collection

from serve.api.endpoints import Kind
from serve.schemas import Json

_TAKE_NONE = frozenset({Kind.EMBEDDING, Kind.COUNT_TOKENS})
"""Nothing is generated there, and some servers refuse parameters of generation."""
_LENGTH = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The names that the endpoints have for one and the same bound."""
_CHATS_LENGTH = ("max_tokens", "max_completion_tokens")
_SAME = (frozenset(_LENGTH), frozenset({"reasoning_effort", "reasoning"}))


def merged(first: Json, then: Json) -> Json:
    """`first`, a bot's, and what `then`, its model's, has beside it. One thing by several names is not said twice."""
    if not first:
        return then
    taken = set(first).union(*(names for names in _SAME if names & first.keys()))
    return {name: value for name, value in then.items() if name not in taken} | first


def completed(
    kind: Kind, request: Json, defaults: Json, *, chat_length: str = "max_tokens", missing: Collection[str] = ()
) -> Json:
    """`request` with what it leaves out. What it says itself is never changed.

    What means the same goes by the endpoint's own name: of a chat's two for the length the one that was configured,
    else `chat_length`. Names in `missing` are no fields of the endpoint.
    """
    if kind in _TAKE_NONE or not defaults:
        return request
    said = {name for names in _SAME if names & request.keys() for name in names}
    known = {name: value for name, value in _renamed(kind, defaults).items() if name not in said}
    bounds = {name: known.pop(name) for name in _LENGTH if name in known}
    if bounds:
        configured, bound = next(iter(bounds.items()))
        known[_length(kind, configured, chat_length)] = bound
    return {name: value for name, value in known.items() if name not in missing} | request


def _length(kind: Kind, configured: str, chat_length: str) -> str:
    if kind is Kind.CHAT:
        return configured if configured in _CHATS_LENGTH else chat_length
    return "max_output_tokens" if kind is Kind.RESPONSE else "max_tokens"


def _renamed(kind: Kind, defaults: Json) -> Json:
    """With the effort of reasoning, and what ends an answer, by their names there."""
    known = dict(defaults)
    if kind is Kind.MESSAGE and "stop" in known:
        stop = known.pop("stop")
        known.setdefault("stop_sequences", [stop] if isinstance(stop, str) else stop)
    if kind is Kind.RESPONSE and "reasoning_effort" in known:
        effort, reasoning = known.pop("reasoning_effort"), known.get("reasoning")
        known["reasoning"] = {"effort": effort} | (reasoning if isinstance(reasoning, dict) else {})
    if kind is Kind.CHAT and isinstance(reasoning := known.get("reasoning"), dict) and reasoning.keys() == {"effort"}:
        known.setdefault("reasoning_effort", known.pop("reasoning")["effort"])
    return known
