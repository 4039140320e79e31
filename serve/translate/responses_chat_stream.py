"""The answer of `/v1/chat/completions`, chunk by chunk, as the events of `/v1/responses`.

Shapes: https://platform.openai.com/docs/api-reference/responses-streaming and
https://platform.openai.com/docs/api-reference/chat-streaming. Reasoning comes in a field that the chat API itself does
not have: `reasoning_content` (DeepSeek, https://api-docs.deepseek.com/guides/thinking_mode) or `reasoning` (Groq,
https://console.groq.com/docs/reasoning).

    response.created, response.in_progress
    for each item, one after the other:
        response.output_item.added
        reasoning and message, for each part:
            response.content_part.added
            response.{reasoning_text,output_text,refusal}.delta ... .done
            response.content_part.done
        function_call:
            response.function_call_arguments.delta ... .done
        response.output_item.done
    response.completed or response.incomplete

Only one item is open at a time. Chat chunks may go back and forth between tool calls: the first is sent as it comes,
the next waits until the arguments before it are a whole JSON object (blanks after it are left out), or until the end.
Text or reasoning that comes after a tool call has begun waits for the end too, and makes items of its own. What is
empty makes no item. `encrypted_content` is in a `reasoning` item once that is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from typing_extensions import override

from serve.schemas import Json
from serve.translate.sealed_thinking import seal, thoughts_in
from serve.translate.translator import BROKEN_OFF, Incomplete, StreamTranslator, event

_WHY_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""What a `finish_reason` is in `incomplete_details`. With any other the answer is whole, unless it is `BROKEN_OFF`."""

_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of content part, in an item of type `item` whose id begins with `prefix`; `key` holds its text."""

    part: str
    key: str
    item: str
    prefix: str

    def of(self, text: str) -> Json:
        blank: Json = {"annotations": [], "logprobs": []} if self is _TEXT else {}
        return {"type": self.part, self.key: text} | blank


_REASONING = _Kind("reasoning_text", "text", "reasoning", "rs_")
_TEXT = _Kind("output_text", "text", "message", "msg_")
_REFUSAL = _Kind("refusal", "refusal", "message", "msg_")


@dataclass(slots=True)
class _Call:
    """A tool call. Of its `arguments`, cut as they came, `sent` pieces have gone to the client."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    sent: int = 0
    done: bool = False

    def add(self, fragment: Json) -> None:
        function = _object(fragment.get("function"), "function")
        name, new_id = _text(function, "name"), _text(fragment, "id")
        if name and new_id and self.id not in ("", new_id):
            raise Incomplete("two tool calls have one index")
        self.id, self.name = self.id or new_id, self.name or name
        if arguments := _text(function, "arguments"):
            if self.done and arguments.strip():
                raise Incomplete("a tool call went on after its end")
            self.arguments.append(arguments)

    @property
    def begun(self) -> bool:
        return bool(self.id and self.name)

    def whole(self) -> bool:
        """Whether nothing can follow: no JSON object is the beginning of another."""
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads("".join(self.arguments)), dict)
        except (ValueError, RecursionError):
            return False


class ResponseStream(StreamTranslator):
    """`response` is the whole response, once `finish()` has returned. `thinking` seals `thinking_blocks` into it."""

    def __init__(
        self, request: Json, clock: Callable[[], float], new_id: Callable[[str], str], *, thinking: bool = False
    ) -> None:
        self.response: Json = {}
        self._request = request
        self._clock = clock
        self._new_id = new_id
        self._thinking = thinking
        self._events: list[bytes] = []
        self._sequence = 0
        self._item: Json | None = None
        self._kind: _Kind | None = None
        self._said: list[str] = []
        self._thoughts: list[Json] = []
        self._calls: dict[int, _Call] = {}
        self._call: _Call | None = None
        self._late: list[Callable[[], None]] = []
        self._finish_reason: str | None = None

    @override
    def feed(self, event: Json) -> bytes:
        """A `chat.completion.chunk`."""
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise Incomplete("a chunk has no choices")
        if not self.response:
            self._begin(event)
        if event.get("usage") is not None:
            self.response["usage"] = _usage(_object(event["usage"], "usage"))
        if (tier := event.get("service_tier")) in _TIERS:
            self.response["service_tier"] = tier
        if choices:
            self._choice(_object(choices[0], "choice"))
        return self._flush()

    @override
    def finish(self) -> bytes:
        if self._finish_reason is None:
            raise Incomplete("the stream ended without a finish_reason")
        for call in self._calls.values():
            if not call.begun:
                raise Incomplete("a tool call has no id or no name")
            if not call.done:
                self._send(call)
        for say in self._late:
            say()
        why = _WHY_INCOMPLETE.get(self._finish_reason)
        status = "incomplete" if why else "completed"
        self._close_item(status)
        self.response["status"] = status
        self.response["incomplete_details"] = {"reason": why} if why else None
        self.response["completed_at"] = None if why else max(int(self._clock()), self.response["created_at"])
        self._emit(f"response.{status}", response=self.response)
        return self._flush()

    def _begin(self, chunk: Json) -> None:
        created = max(0, _count(chunk, "created")) or int(self._clock())
        self.response = _echo(self._request) | {"id": self._new_id("resp_"), "created_at": created}
        if model := _text(chunk, "model"):
            self.response["model"] = model
        self._emit("response.created", response=self.response)
        self._emit("response.in_progress", response=self.response)

    def _choice(self, choice: Json) -> None:
        delta = _object(choice.get("delta"), "delta")
        if reasoning := _text(delta, "reasoning_content") or _text(delta, "reasoning"):
            self._in_turn(partial(self._say, _REASONING, reasoning))
        if self._thinking and (thoughts := thoughts_in(delta)):
            self._in_turn(partial(self._think, thoughts))
        for kind, name in ((_TEXT, "content"), (_REFUSAL, "refusal")):
            if text := _text(delta, name):
                self._in_turn(partial(self._say, kind, text))
        fragments = delta.get("tool_calls") or []
        if not isinstance(fragments, list):
            raise Incomplete("tool_calls is no array")
        for fragment in fragments:
            self._fragment(_object(fragment, "tool call"))
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str) or reason in BROKEN_OFF:
                raise Incomplete("the finish_reason is none, or says that the answer is not whole")
            self._finish_reason = reason

    def _in_turn(self, say: Callable[[], None]) -> None:
        """Now, or at the end when a tool call has begun."""
        if self._calls:
            self._late.append(say)
        else:
            say()

    def _say(self, kind: _Kind, text: str) -> None:
        """A piece of a message or of reasoning."""
        self._open_item_for(kind)
        if self._kind is not kind:
            self._close_part()
            self._kind = kind
            self._emit_in_part("response.content_part.added", part=kind.of(""))
        self._said.append(text)
        logprobs: Json = {"logprobs": []} if kind is _TEXT else {}
        self._emit_in_part(f"response.{kind.part}.delta", delta=text, **logprobs)

    def _think(self, thoughts: list[Json]) -> None:
        """Blocks of thinking. Their text, if they have any, has come as reasoning already."""
        self._open_item_for(_REASONING)
        self._thoughts += thoughts

    def _fragment(self, fragment: Json) -> None:
        index = fragment.get("index")
        if not isinstance(index, int):
            raise Incomplete("a tool call has no index")
        self._calls.setdefault(index, _Call()).add(fragment)
        waiting = [call for call in self._calls.values() if not call.done]
        for call, following in zip(waiting, [*waiting[1:], None], strict=True):
            if not call.begun:
                return
            self._send(call)
            if following is None or not call.whole():
                return
            self._close_item()

    def _send(self, call: _Call) -> None:
        """What the client has not had yet of a call, which is opened if it is not."""
        if self._call is not call:
            fields = {"call_id": call.id, "name": call.name, "arguments": ""}
            self._open_item({"id": self._new_id("fc_"), "type": "function_call", **fields})
            self._call = call
        for arguments in call.arguments[call.sent :]:
            self._emit_in_item("response.function_call_arguments.delta", delta=arguments)
        call.sent = len(call.arguments)

    def _open_item_for(self, kind: _Kind) -> None:
        if self._item is None or self._item["type"] != kind.item:
            extra: Json = {"role": "assistant"} if kind.item == "message" else {"summary": []}
            self._open_item({"id": self._new_id(kind.prefix), "type": kind.item, "content": [], **extra})

    def _open_item(self, item: Json) -> None:
        self._close_item()
        self._item = item | {"status": "in_progress"}
        self.response["output"].append(self._item)
        self._emit("response.output_item.added", output_index=self._index, item=self._item)

    def _close_item(self, status: str = "completed") -> None:
        if self._item is None:
            return
        self._close_part()
        if self._call is not None:
            self._item["arguments"] = "".join(self._call.arguments)
            self._emit_in_item("response.function_call_arguments.done", arguments=self._item["arguments"])
            if self._finish_reason == "length" and not self._call.whole():
                status = "incomplete"
            self._call.done, self._call = True, None
        if self._thoughts:
            self._item["encrypted_content"], self._thoughts = seal(self._thoughts), []
        self._item["status"] = status
        self._emit("response.output_item.done", output_index=self._index, item=self._item)
        self._item = None

    def _close_part(self) -> None:
        if self._kind is None or self._item is None:
            return
        part = self._kind.of("".join(self._said))
        done: Json = {key: value for key, value in part.items() if key not in ("type", "annotations")}
        self._emit_in_part(f"response.{self._kind.part}.done", **done)
        self._emit_in_part("response.content_part.done", part=part)
        self._item["content"].append(part)
        self._kind, self._said = None, []

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _emit_in_item(self, name: str, **fields: Any) -> None:
        self._emit(name, item_id=(self._item or {})["id"], output_index=self._index, **fields)

    def _emit_in_part(self, name: str, **fields: Any) -> None:
        self._emit_in_item(name, content_index=len((self._item or {})["content"]), **fields)

    def _emit(self, name: str, **fields: Any) -> None:
        self._events.append(event({"type": name, "sequence_number": self._sequence, **fields}, name))
        self._sequence += 1

    def _flush(self) -> bytes:
        events, self._events = b"".join(self._events), []
        return events


def as_chunk(answer: Json) -> Json:
    """A whole `chat.completion` as the one chunk of a stream. Raises `Incomplete` when it is none."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Incomplete("the answer has no choices")
    choice = _object(choices[0], "choice")
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Incomplete("the answer has no message")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Incomplete("tool_calls is no array")
    fragments = [{**_object(call, "tool call"), "index": i} for i, call in enumerate(calls)]
    delta = {**message, "tool_calls": fragments}
    return {**answer, "choices": [{"delta": delta, "finish_reason": choice.get("finish_reason")}]}


def _object(value: Any, what: str) -> Json:
    """Null is an empty object."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Incomplete(f"a {what} is no object")
    return value


def _text(holder: Json, name: str) -> str:
    """Null is an empty string."""
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Incomplete(f"a {name} is no string")
    return value


def _usage(usage: Json) -> Json:
    """What the provider does not count is 0."""
    read, written = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    input_tokens, output_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": _count(read, "cached_tokens"),
            "cache_write_tokens": _count(read, "cache_write_tokens"),
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(written, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or input_tokens + output_tokens,
    }


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _echo(request: Json) -> Json:
    """A response without output: what was asked for, and the API's defaults for what was not."""
    asked = {name: value for name, value in request.items() if value is not None}
    text, reasoning = asked.get("text", {}), asked.get("reasoning", {})
    return {
        "id": "",
        "object": "response",
        "created_at": 0,
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": asked.get("model", ""),
        "output": [],
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "presence_penalty": asked.get("presence_penalty", 0.0),
        "frequency_penalty": asked.get("frequency_penalty", 0.0),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": asked.get("safety_identifier"),
        "service_tier": "default",
        "store": False,
        "temperature": asked.get("temperature", 1.0),
        "text": {"format": _format(text.get("format")), "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": [_TOOL | tool for tool in asked.get("tools", [])],
        "top_logprobs": 0,
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": asked.get("user"),
        "metadata": asked.get("metadata", {}),
    }


_TOOL: Json = {"type": "function", "description": None, "parameters": None, "strict": None}


def _format(asked: Json | None) -> Json:
    given = {name: value for name, value in (asked or {}).items() if value is not None}
    if given.get("type") != "json_schema":
        return {"type": given.get("type", "text")}
    return {"description": None, "strict": False} | given
