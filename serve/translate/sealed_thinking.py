"""Claude's thinking, as the `encrypted_content` of a `reasoning` item carries it to the client and back.

OpenAI's clients take `encrypted_content` for opaque and send it back as it came. Ours is a marker, then base64url of
the JSON of `thinking_blocks`. It is not encrypted and need not be: the client has seen what was thought, what it may
not see came encrypted (`redacted_thinking`), and Claude refuses what its signature does not fit.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.translator import Incomplete

MARKER = "switchboard.thinking.v1."
_FIELDS = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}
_ALPHABET = b"-_"


def thoughts_in(delta: Json) -> list[Json]:
    """The blocks in a chat answer, whole or a chunk, that are of use later: those that prove where they come from."""
    given = delta.get("thinking_blocks")
    if given is None:
        return []
    blocks = [_block(entry) for entry in given] if isinstance(given, list) else [None]
    if None in blocks:
        raise Incomplete("thinking_blocks are not what they should be")
    return [block for block in blocks if block is not None and block.get("signature") != ""]


def seal(blocks: list[Json]) -> str:
    data = json.dumps(blocks, separators=(",", ":")).encode()
    return MARKER + base64.b64encode(data, _ALPHABET).decode()


def unseal(content: Any, field: str) -> list[Json]:
    """The blocks in a `reasoning` item's `encrypted_content`; none in one that somebody else made.

    Raises `InvalidRequest` that names `field` for one of ours that is damaged.
    """
    if not isinstance(content, str) or not content.startswith(MARKER):
        return []
    try:
        found = json.loads(base64.b64decode(content[len(MARKER) :], _ALPHABET, validate=True))
    except (ValueError, RecursionError):
        raise _damaged(field) from None
    blocks = [_block(entry) for entry in found] if isinstance(found, list) else [None]
    if None in blocks:
        raise _damaged(field)
    return [block for block in blocks if block is not None]


def without_sealed(request: Json) -> Json:
    """A request to `/v1/responses` for somebody other than Claude, who could not read our `reasoning` items."""
    given = request.get("input")
    if not isinstance(given, list):
        return request
    return request | {"input": [item for item in given if not _is_sealed(item)]}


def _is_sealed(item: Any) -> bool:
    content = item.get("encrypted_content") if isinstance(item, dict) and item.get("type") == "reasoning" else None
    return isinstance(content, str) and content.startswith(MARKER)


def _block(entry: Any) -> Json | None:
    """A thinking block without what a stream adds to it; None for what is none."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        return None
    names = _FIELDS[kind]
    if not all(isinstance(entry.get(name), str) for name in names):
        return None
    return {name: entry[name] for name in ("type", *names)}


def _damaged(field: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' is damaged: send it back as it came, or leave it out.", field, "invalid_value")
