"""What the events of a provider's stream mean, as far as a relay must know: content, the end, an error.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and /responses-streaming,
https://docs.claude.com/en/api/messages-streaming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve.errors import CONTENT_FILTER
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
    alarms: tuple[bytes, ...] = (b"error", b"failed")
    """What an error or the end has in it. False alarms cost a look."""
    piece: bytes = b"{"
    """What events with a piece of the answer have in them and few others: to count them without a look inside."""

    def is_plain(self, block: bytes) -> bool:
        """Whether a whole event may pass unparsed: it can be neither an error nor the end."""
        return block.startswith(self.begins) and block.endswith((b"}\n\n", b"}\r\n\r\n")) and not self._alarmed(block)

    def are_plain(self, chunk: bytes) -> bool:
        """Whether a chunk is nothing but whole events each of which `is_plain`, all with the usual line ends."""
        return (
            chunk.startswith(self.begins)
            and chunk.endswith(b"}\n\n")
            and chunk.count(b"\n\n") == chunk.count(b"}\n\n" + self.begins) + 1
            and b"\r" not in chunk
            and not self._alarmed(chunk)
        )

    def pieces(self, chunk: bytes) -> int:
        """How many of the events in a chunk that is plain bring a piece of the answer."""
        return sum(self.piece in block for block in chunk.split(b"\n\n"))

    def is_end(self, event: Json) -> bool:
        return str(event.get("type")) in self.ends

    def _alarmed(self, events: bytes) -> bool:
        return any(map(events.__contains__, self.alarms))


def _named(*ends: str, piece: bytes) -> ProviderStream:
    """Of a stream whose events have names, which an event of one of the types `ends` ends."""
    alarms = (b"error", b"failed", *(kind.encode() for kind in ends))
    return ProviderStream(b"event: ", ends=frozenset(ends), alarms=alarms, piece=piece)


_OLDER = ProviderStream(b"data: {", done=True)
STREAMS = {
    CHAT: _OLDER,
    COMPLETIONS: _OLDER,
    RESPONSES: _named("response.completed", "response.incomplete", piece=b'.delta"'),
    MESSAGES: _named("message_stop", piece=b'"content_block_delta"'),
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
    choices = _list(event.get("choices"))
    # Some servers tell the usage so far with every chunk, also with the one that opens the answer.
    return any(_says_something(choice) for choice in choices) or (not choices and bool(event.get("usage")))


def is_filtered(path: str, said: Json) -> bool:
    """Whether a filter left nothing of an answer: of a whole one, or one that a stream's event ends before any content.

    Both vendors say so with a 200: Claude by `refusal`, OpenAI by `content_filter`.
    """
    if path == MESSAGES:
        told = said.get("delta") if said.get("type") == "message_delta" else said
        return isinstance(told, dict) and told.get("stop_reason") == "refusal" and not said.get("content")
    if path == RESPONSES:
        response = said.get("response", said)
        details = response.get("incomplete_details") if isinstance(response, dict) else None
        return isinstance(details, dict) and details.get("reason") == CONTENT_FILTER and not response.get("output")
    choices = _list(said.get("choices"))
    return bool(choices) and all(_is_filtered(choice) for choice in choices)


def error_in(event: Json) -> Json | None:
    """The error that an event, or a whole answer, reports in a 200, in the shape of the vendor's error bodies."""
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
    if event.get("object") == "response" and event.get("status") == "failed":
        return {"error": {}}
    return None


def _opens_a_tool(event: Json) -> bool:
    block = event.get("content_block")
    return isinstance(block, dict) and str(block.get("type")) not in {"text", "thinking", "None"}


def _says_something(choice: Any) -> bool:
    return isinstance(choice, dict) and (bool(choice.get("finish_reason")) or _has_content(choice))


def _is_filtered(choice: Any) -> bool:
    return isinstance(choice, dict) and choice.get("finish_reason") == CONTENT_FILTER and not _has_content(choice)


def _has_content(choice: Json) -> bool:
    said = choice.get("delta") or choice.get("message")
    return bool(choice.get("text")) or (
        isinstance(said, dict) and any(value for key, value in said.items() if key != "role")
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
