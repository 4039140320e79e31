"""Anthropic's answer, whole or streamed, as OpenAI's chat completion.

Sources: https://docs.claude.com/en/api/messages, https://docs.claude.com/en/docs/build-with-claude/streaming, and
https://platform.openai.com/docs/api-reference/chat/object. The deltas of a stream add up to the whole answer.

Thinking has no place in OpenAI's schema. It goes where other gateways put it: `reasoning_content` for the text, and
`thinking_blocks` for what a client must send back with the results of tools, signatures and all. Blocks that belong to
tools of Anthropic's own are left out; no request of ours offers such tools. So are citations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from typing_extensions import override

from serve.schemas import Json
from serve.translate.translator import Incomplete, StreamTranslator
from serve.translate.translator import event as sse

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""A reason that is newer than this table counts as `stop`."""

_DELTAS = {
    "text_delta": ("text", "text"),
    "input_json_delta": ("tool_use", "partial_json"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
}
"""The type of the block that a delta belongs to, and the delta's field. Deltas of other types are passed over."""

_BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})

_T = TypeVar("_T")


def completion(answer: Json, created: int) -> Json:
    """The whole answer. `created` is in seconds since the epoch. Raises `Incomplete`."""
    if answer.get("type") != "message":
        raise Incomplete("The answer is no message.")
    reason = _get(answer, "stop_reason", str)
    message = _message(_get(answer, "content", list))
    message["refusal"] = _refusal(answer, reason)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH_REASONS.get(reason, "stop")}
    return {
        **_head(answer, "chat.completion", created),
        "choices": [choice],
        "usage": _usage(_get(answer, "usage", dict)),
    }


def _message(blocks: list[Any]) -> Json:
    texts: list[str] = []
    reasoning: list[str] = []
    thinking: list[Json] = []
    calls: list[Json] = []
    for block in blocks:
        if not isinstance(block, dict):
            raise Incomplete("A content block is no object.")
        kind = block.get("type")
        if kind == "text":
            texts.append(_get(block, "text", str))
        elif kind == "tool_use":
            function = {"name": _get(block, "name", str), "arguments": _compact(_get(block, "input", dict))}
            calls.append({"id": _get(block, "id", str), "type": "function", "function": function})
        elif kind == "thinking":
            reasoning.append(_get(block, "thinking", str))
            thinking.append(_thought(reasoning[-1], _get(block, "signature", str)))
        elif kind == "redacted_thinking":
            thinking.append(_redacted(block))
    message: Json = {"role": "assistant", "content": "".join(texts) or None, "refusal": None, "annotations": []}
    optional = {"reasoning_content": "".join(reasoning), "thinking_blocks": thinking, "tool_calls": calls}
    return message | {name: value for name, value in optional.items() if value}


@dataclass(slots=True)
class _Block:
    """A block that has begun. `received` is the thinking or the JSON text so far; `place` counts those of its kind."""

    kind: str
    start: Json
    place: int = 0
    received: str = ""
    signature: str = ""


class Chunks(StreamTranslator):
    """An event of Anthropic's becomes none, one or two `chat.completion.chunk`s.

    In a stream, entries of `tool_calls` and `thinking_blocks` have an `index`, by which OpenAI's SDK adds them up.
    """

    def __init__(self, created: int, *, include_usage: bool) -> None:
        self._created = created
        self._include_usage = include_usage
        self._head: Json = {}
        self._told_usage: Json = {}
        self._open: dict[int, _Block] = {}
        self._calls = 0
        self._thoughts = 0
        self._finished = False
        self._stopped = False
        self._handlers = {
            "message_start": self._message_start,
            "content_block_start": self._block_start,
            "content_block_delta": self._block_delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
        }

    @override
    def feed(self, event: Json) -> bytes:
        kind = _get(event, "type", str)
        handler = self._handlers.get(kind)
        if handler is None:
            return b""
        if (kind == "message_start") is bool(self._head) or self._stopped:
            raise Incomplete(f"{kind} is out of place.")
        return handler(event)

    @override
    def finish(self) -> bytes:
        if not self._stopped:
            raise Incomplete("The stream ended before message_stop.")
        return b"data: [DONE]\n\n"

    def _message_start(self, event: Json) -> bytes:
        message = _get(event, "message", dict)
        self._head = _head(message, "chat.completion.chunk", self._created)
        self._told_usage = dict(_get(message, "usage", dict))
        return self._chunk({"role": "assistant", "content": ""})

    def _block_start(self, event: Json) -> bytes:
        index = _get(event, "index", int)
        block = _get(event, "content_block", dict)
        kind = _get(block, "type", str)
        if index in self._open or self._finished:
            raise Incomplete("content_block_start is out of place.")
        opened = self._open[index] = _Block(kind, block)
        if kind == "text":
            return self._piece(opened, "text", _get(block, "text", str))
        if kind == "tool_use":
            opened.place, self._calls = self._calls, self._calls + 1
            function = {"name": _get(block, "name", str), "arguments": ""}
            return self._call(opened, {"id": _get(block, "id", str), "type": "function", "function": function})
        if kind == "thinking":
            opened.signature = _get(block, "signature", str) if "signature" in block else ""
            return self._piece(opened, "thinking", _get(block, "thinking", str))
        return b""

    def _block_delta(self, event: Json) -> bytes:
        block = self._open.get(_get(event, "index", int))
        if block is None:
            raise Incomplete("A delta belongs to no open block.")
        delta = _get(event, "delta", dict)
        kind = _get(delta, "type", str)
        if kind not in _DELTAS or block.kind not in _BLOCKS:
            return b""
        owner, field = _DELTAS[kind]
        if owner != block.kind:
            raise Incomplete(f"A {kind} does not belong to a {block.kind} block.")
        return self._piece(block, field, _get(delta, field, str))

    def _piece(self, block: _Block, field: str, piece: str) -> bytes:
        if field == "signature":
            block.signature += piece
            return b""
        if not piece:
            return b""
        if field == "text":
            return self._chunk({"content": piece})
        block.received += piece
        if field == "thinking":
            return self._chunk({"reasoning_content": piece})
        return self._call(block, {"function": {"arguments": piece}})

    def _block_stop(self, event: Json) -> bytes:
        block = self._open.pop(_get(event, "index", int), None)
        if block is None:
            raise Incomplete("content_block_stop belongs to no open block.")
        if block.kind == "tool_use" and not block.received:
            # A call without arguments may come without a delta, and "" is no JSON.
            return self._call(block, {"function": {"arguments": _compact(_get(block.start, "input", dict))}})
        if block.kind == "thinking":
            return self._thinking_block(_thought(block.received, block.signature))
        if block.kind == "redacted_thinking":
            return self._thinking_block(_redacted(block.start))
        return b""

    def _message_delta(self, event: Json) -> bytes:
        """There may be several: the counts are cumulative, and one of them tells why the model stopped."""
        usage = _get(event, "usage", dict)
        self._told_usage |= {name: value for name, value in usage.items() if value is not None}
        delta = _get(event, "delta", dict)
        if delta.get("stop_reason") is None:
            return b""
        reason = _get(delta, "stop_reason", str)
        if self._open or self._finished:
            raise Incomplete("The model stopped in the midst of a block, or twice.")
        self._finished = True
        refusal = _refusal(delta, reason)
        said = self._chunk({"refusal": refusal}) if refusal else b""
        return said + self._chunk({}, _FINISH_REASONS.get(reason, "stop"))

    def _message_stop(self, event: Json) -> bytes:
        if not self._finished:
            raise Incomplete("message_stop came before the reason why the model stopped.")
        self._stopped = True
        usage = _usage(self._told_usage)
        return sse({**self._head, "choices": [], "usage": usage}) if self._include_usage else b""

    def _call(self, block: _Block, call: Json) -> bytes:
        return self._chunk({"tool_calls": [{"index": block.place, **call}]})

    def _thinking_block(self, entry: Json) -> bytes:
        place, self._thoughts = self._thoughts, self._thoughts + 1
        return self._chunk({"thinking_blocks": [{"index": place, **entry}]})

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [choice]}
        return sse({**chunk, "usage": None} if self._include_usage else chunk)


def _head(message: Json, kind: str, created: int) -> Json:
    return {
        "id": f"chatcmpl-{_get(message, 'id', str)}",
        "object": kind,
        "created": created,
        "model": _get(message, "model", str),
    }


def _thought(thinking: str, signature: str) -> Json:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def _redacted(block: Json) -> Json:
    return {"type": "redacted_thinking", "data": _get(block, "data", str)}


def _refusal(told: Json, reason: str) -> str | None:
    """Anthropic's explanation, where it gives one. What the model had said before stays content."""
    details = told.get("stop_details")
    if reason != "refusal" or not isinstance(details, dict):
        return None
    explanation = details.get("explanation")
    return explanation if isinstance(explanation, str) and explanation else None


def _usage(told: Json) -> Json:
    """Anthropic counts the prompt in three parts: read from the cache, written to it, and neither."""
    read, written = (_count(told, f"cache_{what}_input_tokens") for what in ("read", "creation"))
    prompt = _get(told, "input_tokens", int) + read + written
    generated = _get(told, "output_tokens", int)
    usage: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    details = told.get("output_tokens_details")
    if isinstance(details, dict):
        usage["completion_tokens_details"] = {"reasoning_tokens": _count(details, "thinking_tokens")}
    return usage


def _count(told: Json, name: str) -> int:
    return 0 if told.get(name) is None else _get(told, name, int)


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _get(found: Json, name: str, kind: type[_T]) -> _T:
    value = found.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise Incomplete(f"'{name}' is missing from what the provider said, or is of the wrong type.")
    return value
