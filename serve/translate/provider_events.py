"""What the events of a provider's stream mean, as far as a relay must know: content, the end, an error.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and /responses-streaming,
https://docs.claude.com/en/api/messages-streaming.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from serve.schemas import Json

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class ProviderStream:
    """The rules of one endpoint's stream."""

    end: re.Pattern[bytes]
    """Found in the last event of a whole answer and, as quotes and line ends are escaped inside JSON, in no other."""

    def ends_in(self, events: bytes) -> bool:
        return self.end.search(events) is not None


_OLDER = ProviderStream(re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]"))
STREAMS = {
    CHAT: _OLDER,
    COMPLETIONS: _OLDER,
    RESPONSES: ProviderStream(re.compile(rb'"type": ?"response\.(?:completed|incomplete)"')),
    MESSAGES: ProviderStream(re.compile(rb'"type": ?"message_stop"')),
}


def is_content(path: str, event: Json) -> bool:
    """Whether an event brings a part of the answer, after which nobody else can give it.

    Text, tool calls, reasoning, refusals and the end count; a role, a ping or the frame around them does not.
    """
    if path == MESSAGES:
        return event.get("type") in {"content_block_delta", "message_delta", "message_stop"} or _opens_a_tool(event)
    if path == RESPONSES:
        kind = str(event.get("type"))
        return kind.endswith((".delta", ".completed", ".incomplete", ".done"))
    return any(_says_something(choice) for choice in _list(event.get("choices"))) or bool(event.get("usage"))


def error_in(event: Json) -> Json | None:
    """The error that an event reports in the midst of a 200, in the shape of the vendor's error bodies."""
    error = event.get("error")
    if isinstance(error, dict):
        return event
    if error:
        return {"error": {"message": str(error)}}
    if event.get("type") == "error":  # of /v1/responses: the error is the event itself
        return {"error": event}
    response = event.get("response")
    if event.get("type") == "response.failed" and isinstance(response, dict):
        return {"error": response.get("error") or {}}
    return None


def _opens_a_tool(event: Json) -> bool:
    block = event.get("content_block")
    return isinstance(block, dict) and block.get("type") not in {"text", "thinking", None}


def _says_something(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    if choice.get("finish_reason") or choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
