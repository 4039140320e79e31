"""Answers of OpenAI's `/v1/chat/completions` as Anthropic's `/v1/messages` gives them: whole, and event by event.

OpenAI: https://platform.openai.com/docs/api-reference/chat/object and .../chat-streaming
Anthropic: https://platform.claude.com/docs/en/api/messages/create and .../build-with-claude/streaming

Reasoning comes from `reasoning_content` or `reasoning`, which are no fields of OpenAI's but of the servers that follow
it. Logprobs, annotations and audio have no place in a message.

Where the length limit cut a tool call off, a stream has what there is of it, as Anthropic's own has. A whole message
leaves the call out: its `input` must be an object, and half of one would be another call than the model meant.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from serve.schemas import Json
from serve.translate.translator import BROKEN_OFF, Incomplete, StreamTranslator, event

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""A reason that is not in this table counts as `stop`, unless the answer is `BROKEN_OFF`."""
_TIERS = {"default": "standard", "priority": "priority"}
_ONLY_AT_START = ("cache_creation", "inference_geo", "service_tier")


def whole_message(answer: Json, request: Json) -> Json:
    """A chat completion as a message. Raises `Incomplete`."""
    choice = _first_choice(answer)
    if choice is None:
        raise Incomplete("The answer has no choice.")
    said = _object(choice.get("message"))
    content: list[Json] = []
    if (thought := _reasoning(said)) and _shows_thinking(request):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    refusal = _string(said.get("refusal"))
    content += [_text_block(text) for text in (_string(said.get("content")), refusal) if text]
    calls = [_tool_use(call) for call in _objects(said.get("tool_calls")) if not _is_cut_off(call, choice)]
    return {
        **_head(answer, request),
        "content": [*content, *calls],
        **_stopped(choice, request, refused=bool(refusal), called=bool(calls)),
        "usage": _usage(answer.get("usage"), answer.get("service_tier")),
    }


@dataclass(slots=True)
class _Block:
    """One content block, from its first piece on.

    `source` is the delta's field that it comes from, or the index of a tool call.
    """

    kind: Literal["thinking", "text", "tool_use"]
    source: str | int
    pieces: list[str] = field(default_factory=list)
    sent: int = 0
    tried: int = 0
    state: Literal["waiting", "open", "closed"] = "waiting"
    id: str = ""
    name: str = ""

    @property
    def can_open(self) -> bool:
        return self.kind != "tool_use" or bool(self.id and self.name)

    def ended(self) -> bool:
        """Whether nothing more can come, once another block has begun: a whole JSON object cannot go on."""
        if self.kind != "tool_use":
            return True
        if not self.can_open or self.tried == len(self.pieces):
            return False
        if self.pieces[-1].rstrip()[-1:] not in ("", "}"):
            return False
        self.tried = len(self.pieces)
        try:
            _arguments("".join(self.pieces))
        except Incomplete:
            return False
        return True

    def begun(self) -> Json:
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        if self.kind == "text":
            return _text_block("")
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}

    def unsent(self) -> Json | None:
        """The delta for the pieces that the client has not got, which it now has."""
        text = "".join(self.pieces[self.sent :])
        self.sent = len(self.pieces)
        if not text:
            return None
        if self.kind == "thinking":
            return {"type": "thinking_delta", "thinking": text}
        if self.kind == "text":
            return {"type": "text_delta", "text": text}
        return {"type": "input_json_delta", "partial_json": text}


class MessageEvents(StreamTranslator):
    """One streamed chat completion.

    The first block of the queue is the one that the client has open. Others wait behind it: a tool call until the ones
    before it are whole, since a provider may send several calls by turns and the client takes one block at a time.
    """

    def __init__(self, request: Json) -> None:
        self._request = request
        self._started = False
        self._queue: deque[_Block] = deque()
        self._calls: dict[int, _Block] = {}
        self._index = 0
        self._refused = False
        self._finished: Json | None = None
        self._usage: Any = None

    @override
    def feed(self, event: Json) -> bytes:
        if event.get("usage") is not None:
            self._usage = event["usage"]
        choice = _first_choice(event)
        if choice is None:
            return b""
        sent = [] if self._started else [self._start(event)]
        self._take(_object({} if (delta := choice.get("delta")) is None else delta))
        if choice.get("finish_reason") is not None:
            self._finished = choice
        while self._queue:
            sent += self._send(self._queue[0])
            if len(self._queue) == 1 or not self._queue[0].ended():
                break
            sent.append(self._close(self._queue.popleft()))
        return b"".join(sent)

    @override
    def finish(self) -> bytes:
        if self._finished is None:
            raise Incomplete("The stream has no finish reason.")
        stopped = _stopped(self._finished, self._request, refused=self._refused, called=bool(self._calls))
        sent: list[bytes] = []
        while self._queue:
            block = self._queue.popleft()
            if block.kind == "tool_use" and not (
                _was_limited(self._finished) and _is_unfinished("".join(block.pieces))
            ):
                _arguments("".join(block.pieces))
            sent += self._send(block)
            sent.append(self._close(block))
        usage = {name: count for name, count in _usage(self._usage, None).items() if name not in _ONLY_AT_START}
        sent.append(_named({"type": "message_delta", "delta": {**stopped, "container": None}, "usage": usage}))
        sent.append(_named({"type": "message_stop"}))
        return b"".join(sent)

    def _start(self, chunk: Json) -> bytes:
        self._started = True
        usage = _usage(self._usage, chunk.get("service_tier"))
        message = {
            **_head(chunk, self._request),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": {**usage, "output_tokens": 0, "output_tokens_details": None},
        }
        return _named({"type": "message_start", "message": message})

    def _take(self, delta: Json) -> None:
        if _shows_thinking(self._request):
            self._take_text("thinking", "reasoning", _reasoning(delta))
        self._take_text("text", "content", _string(delta.get("content")))
        refusal = _string(delta.get("refusal"))
        self._take_text("text", "refusal", refusal)
        self._refused = self._refused or bool(refusal)
        for call in _objects(delta.get("tool_calls")):
            self._take_call(call)

    def _take_text(self, kind: Literal["thinking", "text"], source: str, text: str) -> None:
        if not text:
            return
        if not self._queue or self._queue[-1].source != source:
            self._queue.append(_Block(kind, source))
        self._queue[-1].pieces.append(text)

    def _take_call(self, call: Json) -> None:
        index = call.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            raise Incomplete("A piece of a tool call has no index.")
        block = self._calls.get(index)
        if block is None:
            block = self._calls[index] = _Block("tool_use", index)
            self._queue.append(block)
        call_id, name, piece = _function(call)
        # Some servers say both again with every piece, and not always the same.
        block.id, block.name = block.id or call_id, block.name or name
        # Whitespace before the arguments would be a delta from which the client's SDK parses nothing.
        piece = piece if block.pieces else piece.lstrip()
        if not piece or (block.state == "closed" and not piece.strip()):
            return
        if block.state == "closed":
            raise Incomplete("The arguments of a tool call go on after their end.")
        block.pieces.append(piece)

    def _send(self, block: _Block) -> list[bytes]:
        """Open the block unless it is open, and send what it has. Nothing while a call's name is still to come."""
        sent: list[bytes] = []
        if not block.can_open:
            return sent
        if block.state == "waiting":
            block.state = "open"
            start = {"type": "content_block_start", "index": self._index, "content_block": block.begun()}
            sent.append(_named(start))
        if delta := block.unsent():
            sent.append(_named({"type": "content_block_delta", "index": self._index, "delta": delta}))
        return sent

    def _close(self, block: _Block) -> bytes:
        if block.state != "open":
            raise Incomplete("A tool call has no id or no name.")
        block.state = "closed"
        self._index += 1
        return _named({"type": "content_block_stop", "index": self._index - 1})


def _named(payload: Json) -> bytes:
    return event(payload, payload["type"])


def _first_choice(answer: Json) -> Json | None:
    """A request of ours asks for one choice. A chunk may have none: the one with the usage, and Azure's first."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        raise Incomplete("The answer has no list of choices.")
    return next((choice for choice in _objects(choices) if choice.get("index", 0) == 0), None)


def _objects(value: Any) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Incomplete("A list was expected.")
    return [_object(item) for item in value]


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise Incomplete("An object was expected.")
    return value


def _string(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Incomplete("A string was expected.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Incomplete("A string holds half of a surrogate pair.") from error
    return value


def _reasoning(said: Json) -> str:
    """Some servers give both fields while they rename one to the other. What is no string is somebody's own."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(said.get(name), str) and said[name]:
            return _string(said[name])
    return ""


def _shows_thinking(request: Json) -> bool:
    thinking = request.get("thinking")
    return not (isinstance(thinking, dict) and thinking.get("display") == "omitted")


def _text_block(text: str) -> Json:
    return {"type": "text", "text": text, "citations": None}


def _function(call: Json) -> tuple[str, str, str]:
    """A tool call's id, name and arguments, or what a piece of it has of them."""
    if call.get("type") not in (None, "", "function"):
        raise Incomplete("A tool call is not one of a function.")
    function = _object({} if (value := call.get("function")) is None else value)
    return _string(call.get("id")), _string(function.get("name")), _string(function.get("arguments"))


def _tool_use(call: Json) -> Json:
    call_id, name, arguments = _function(call)
    if not call_id or not name:
        raise Incomplete("A tool call has no id or no name.")
    return {"type": "tool_use", "id": call_id, "name": name, "input": _arguments(arguments)}


def _is_cut_off(call: Json, choice: Json) -> bool:
    call_id, name, arguments = _function(call)
    return bool(call_id and name) and _was_limited(choice) and _is_unfinished(arguments)


def _was_limited(choice: Json) -> bool:
    """Whether the provider says that the answer has met the length limit."""
    return bool(choice.get("finish_reason") == "length")


def _is_unfinished(arguments: str) -> bool:
    """Whether the arguments of a call that may have been cut off are no JSON. None at all are not begun yet."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return True
    return False


def _arguments(text: str) -> Json:
    """A tool call's whole arguments, where nothing means none. Raises `Incomplete` unless JSON can say them again."""
    try:
        value = json.loads(text.strip() or "{}")
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Incomplete("The arguments of a tool call are not valid JSON.") from error
    return _object(value)


def _head(answer: Json, request: Json) -> Json:
    return {
        "id": f"msg_{_string(answer.get('id')).removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": _string(answer.get("model")) or request.get("model", ""),
        "container": None,
    }


def _stopped(choice: Json, request: Json, *, refused: bool, called: bool) -> Json:
    """Why the answer ended.

    OpenAI says `stop` after a call that `tool_choice` named. vLLM's `stop_reason` is the stop string that it met.
    """
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or finish in BROKEN_OFF:
        raise Incomplete("The answer has no finish reason, or one that means that it is not whole.")
    reason = _STOP_REASONS.get(finish, "end_turn")
    met = choice.get("stop_reason")
    sequence: str | None = None
    if refused:
        reason = "refusal"
    elif reason == "end_turn" and called:
        reason = "tool_use"
    elif reason == "end_turn" and isinstance(met, str) and met in (request.get("stop_sequences") or []):
        reason, sequence = "stop_sequence", met
    return {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}


def _usage(usage: Any, tier: Any) -> Json:
    """Anthropic counts what was read from the cache apart, OpenAI within the prompt."""
    usage = usage if isinstance(usage, dict) else {}
    cached = _count(usage, "prompt_tokens_details", "cached_tokens") or 0
    thought = _count(usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": max(0, (_count(usage, "prompt_tokens") or 0) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "cache_creation": None,
        "output_tokens": _count(usage, "completion_tokens") or 0,
        "output_tokens_details": None if thought is None else {"thinking_tokens": thought},
        "server_tool_use": None,
        "inference_geo": None,
        "service_tier": _TIERS.get(tier) if isinstance(tier, str) else None,
    }


def _count(usage: Json, *path: str) -> int | None:
    value: Any = usage
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
