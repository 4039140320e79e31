"""Thinking that only another provider can read, in a conversation that has moved here from there.

A request in its provider's own dialect passes as it came, but for this. Each provider refuses what another one thought,
and what was thought is left out wherever a request is translated too:

- OpenAI's `/v1/chat/completions` knows no `thinking_blocks`, Claude's as `openai_anthropic_stream` gives them, and no
  `reasoning_content` beside them. One that stands alone stays: some servers of this dialect have such a field of their
  own, and want it back (https://api-docs.deepseek.com/guides/thinking_mode).
- OpenAI's `/v1/responses` cannot decrypt what `sealed_thinking` made.
- Claude refuses `thinking` with a signature that is not its own. `anthropic_openai_stream` gives an empty one, vLLM
  0.32 one of 32 hexadecimal digits; Claude's are longer.
"""

from __future__ import annotations

import json
import re
from typing import Any

from serve.schemas import Json
from serve.translate.provider_events import CHAT, MESSAGES, RESPONSES
from serve.translate.sealed_thinking import MARKER, without_sealed

_BLOCKS = b'"thinking_blocks"'
_SEALED = MARKER.encode()
_NO_SIGNATURE = r"(?:[0-9a-f]{32})?"
_UNSIGNED = re.compile(rf'"signature"\s*:\s*"{_NO_SIGNATURE}"'.encode())


def without_foreign(path: str, body: bytes, request: Json, *, signs_thinking: bool) -> bytes:
    """The body to send in the place of `body`, which is `request` as it came: nearly always itself.

    `signs_thinking`: whether the provider of `/v1/messages` is one that refuses unsigned thinking. Others give none
    but that.
    """
    if path == RESPONSES and _SEALED in body:
        return _dumped(without_sealed(request))
    turns = request.get("messages")
    if not isinstance(turns, list):
        return body
    if path == CHAT and _BLOCKS in body:
        return _dumped(request | {"messages": [_without_blocks(turn) for turn in turns]})
    if path.startswith(MESSAGES) and signs_thinking and _UNSIGNED.search(body):
        return _dumped(request | {"messages": [kept for turn in turns for kept in _without_unsigned(turn)]})
    return body


def _without_blocks(turn: Any) -> Any:
    if not isinstance(turn, dict) or turn.get("role") != "assistant" or "thinking_blocks" not in turn:
        return turn
    foreign = {"thinking_blocks", "reasoning_content"} if turn["thinking_blocks"] else {"thinking_blocks"}
    return {name: value for name, value in turn.items() if name not in foreign}


def _without_unsigned(turn: Any) -> list[Any]:
    """One turn, or none where nothing is left: Claude refuses an empty one, and takes two of the user's in a row."""
    if not isinstance(turn, dict) or turn.get("role") != "assistant" or not isinstance(turn.get("content"), list):
        return [turn]
    kept = [block for block in turn["content"] if not _is_unsigned(block)]
    if len(kept) == len(turn["content"]):
        return [turn]
    return [turn | {"content": kept}] if kept else []


def _is_unsigned(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    signature = block.get("signature")
    return isinstance(signature, str) and re.fullmatch(_NO_SIGNATURE, signature) is not None


def _dumped(request: Json) -> bytes:
    return json.dumps(request).encode()
