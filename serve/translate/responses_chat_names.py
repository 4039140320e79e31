"""What a client of `/v1/responses` calls a field of the chat request that its own became."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "verbosity": "text.verbosity",
}
_WITHIN = ((".image_url.url", ".image_url"), (".file.", "."), (".function.", "."))
"""What the chat API has one level deeper."""


def clients_field(field: str, places: Mapping[str, str]) -> str:
    """`places` says where messages and tool calls come from: `messages[1]` from `input[0]`."""
    known = {**_NAMES, **places}
    named = [name for name in known if field == name or field.startswith((f"{name}.", f"{name}["))]
    if not named:
        return field
    name = max(named, key=len)
    if known[name] in ("input", "instructions"):
        return known[name]  # a text: there is nothing within
    rest = field[len(name) :]
    for chats, own in _WITHIN:
        rest = rest.replace(chats, own)
    return known[name] + rest
