"""What the events of a provider's stream mean, as far as a relay must know: content, the end, an error.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and /responses-streaming,
https://docs.claude.com/en/api/messages-streaming.
"""

from __future__ import annotations

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

    begins: bytes
    """How its events begin."""
    done: bool = False
    """Whether `[DONE]` ends it; else an event of one of the types `ends`."""
    ends: frozenset[str] = frozenset()
    piece: bytes = b"{"
    """What events with a piece of the answer have in them and few others: to count them without a look inside."""

    def is_plain(self, block: bytes) -> bool:
        """Whether a whole event may pass unparsed: it can be neither an error nor the end. False alarms cost a look."""
        return (
            block.startswith(self.begins)
            and block.endswith((b"}\n\n", b"}\r\n\r\n"))
            and b"error" not in block
            and b"failed" not in block
            and not any(kind.encode() in block for kind in self.ends)
        )

    def is_end(self, event: Json) -> bool:
        return str(event.get("type")) in self.ends


_OLDER = ProviderStream(b"data: {", done=True)
STREAMS = {
    CHAT: _OLDER,
    COMPLETIONS: _OLDER,
    RESPONSES: ProviderStream(
        b"event: ", ends=frozenset({"response.completed", "response.incomplete"}), piece=b'.delta"'
    ),
    MESSAGES: ProviderStream(b"event: ", ends=frozenset({"message_stop"}), piece=b'"content_block_delta"'),
}


def is_content(path: str, event: Json) -> bool:
    """Whether an event brings a part of the answer, after which nobody else can give it.

    Text, tool calls, reasoning, refusals and the end count; a role, a ping or the frame around them does not.
    """
    if path == MESSAGES:
        kind = str(event.get("type"))
        return kind in {"content_block_delta", "message_delta", "message_stop"} or _opens_a_tool(event)
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
    return isinstance(block, dict) and str(block.get("type")) not in {"text", "thinking", "None"}


def _says_something(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    if choice.get("finish_reason") or choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
