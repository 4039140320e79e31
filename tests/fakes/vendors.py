"""OpenAI and Anthropic on loopback: their wire formats, and every way in which they fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from serve.schemas import Json
from tests.fakes import replica as fake
from tests.fakes.http_server import Behaviour, Call, HttpServer

WORDS = ("Good ", "day", "!")
TEXT = "".join(WORDS)
USAGE = (7, 3)
"""Tokens in and out."""


class Vendor(HttpServer):
    """Answers well, in the format of the endpoint that was asked, until told otherwise."""

    def __init__(self, name: str) -> None:
        super().__init__(self._answer)
        self.name = name

    @property
    def well(self) -> Behaviour:
        return self._answer

    async def _answer(self, call: Call) -> None:
        if call.json.get("stream"):
            await streams(events_of(call.path, self.name))(call)
        else:
            await fake.answers(whole(call.path, self.name))(call)


def whole(path: str, model: str) -> Json:
    """The answer to a request that does not stream."""
    if path.endswith("/messages"):
        return message(model)
    if path.endswith("/responses"):
        return response(model, "completed")
    if path.endswith("/count_tokens"):
        return {"input_tokens": USAGE[0]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": chat_usage(),
    }


def chat_usage() -> Json:
    given, made = USAGE
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def message(model: str) -> Json:
    given, made = USAGE
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": TEXT, "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": given,
            "output_tokens": made,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def response(model: str, status: str, text: str = TEXT) -> Json:
    given, made = USAGE
    item = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": model,
        "output": [item] if status == "completed" else [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + made,
        }
        if status == "completed"
        else None,
    }


def events_of(path: str, model: str) -> list[bytes]:
    """The events of a good stream, the first of them without content."""
    if path.endswith("/messages"):
        return [named(event) for event in message_events(model)]
    if path.endswith("/responses"):
        return [named(event) for event in response_events(model)]
    return [*(unnamed(chunk) for chunk in chat_chunks(model)), fake.DONE]


def chat_chunks(model: str) -> list[Json]:
    deltas: list[tuple[Json, str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in WORDS]
    deltas += [({}, "stop")]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    chunks = [
        base | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], "usage": None}
        for delta, reason in deltas
    ]
    return [*chunks, base | {"choices": [], "usage": chat_usage()}]


def message_events(model: str) -> list[Json]:
    opened = message(model) | {"content": [], "stop_reason": None}
    opened["usage"] = opened["usage"] | {"output_tokens": 1}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS
    ]
    return [
        {"type": "message_start", "message": opened},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": USAGE[1]},
        },
        {"type": "message_stop"},
    ]


def told_as_events(whole_message: Json) -> list[Json]:
    """The stream that adds up to a message, whatever blocks it has; each piece of a block comes in two halves."""
    opened = whole_message | {"content": [], "stop_reason": None}
    events: list[Json] = [{"type": "message_start", "message": opened}]
    for index, block in enumerate(whole_message["content"]):
        blank, deltas = _pieces(block)
        events.append({"type": "content_block_start", "index": index, "content_block": blank})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    stop = {name: whole_message[name] for name in ("stop_reason", "stop_sequence")}
    usage = {"output_tokens": whole_message["usage"]["output_tokens"]}
    return [*events, {"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]


def _pieces(block: Json) -> tuple[Json, list[Json]]:
    """A block as it begins, and its deltas."""
    kind = block["type"]
    if kind == "redacted_thinking":
        return block, []
    if kind == "tool_use":
        return block | {"input": {}}, _halves("input_json_delta", "partial_json", json.dumps(block["input"]))
    deltas = _halves(f"{kind}_delta", kind, block[kind])
    if kind == "thinking":
        return block | {"thinking": "", "signature": ""}, [
            *deltas,
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    return block | {"text": ""}, deltas


def _halves(kind: str, name: str, text: str) -> list[Json]:
    middle = len(text) // 2
    return [{"type": kind, name: piece} for piece in (text[:middle], text[middle:])]


def response_events(model: str) -> list[Json]:
    item: Json = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    done = response(model, "completed")
    bare: list[Json] = [
        {"type": "response.created", "response": response(model, "in_progress")},
        {"type": "response.in_progress", "response": response(model, "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.output_text.done", **at, "text": TEXT, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part | {"text": TEXT}},
        {"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]},
        {"type": "response.completed", "response": done},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(bare)]


def named(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def unnamed(event: Json) -> bytes:
    return b"data: %b\n\n" % json.dumps(event).encode()


def streams(events: Sequence[bytes]) -> Behaviour:
    return fake.streams_bytes(*events)


def error_body(path: str, kind: str, code: str | None, text: str) -> Json:
    """An error as the vendor of the endpoint writes it."""
    if "/messages" in path:
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_up"}
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def refuses(status: int, kind: str, code: str | None = None, text: str = "No.", **headers: str) -> Behaviour:
    async def behave(call: Call) -> None:
        given: Any = [(name.replace("_", "-"), value) for name, value in headers.items()]
        await fake.answers(error_body(call.path, kind, code, text), status, *given)(call)

    return behave


def _some(call: Call, content: int) -> list[bytes]:
    """The first events of a good stream, `content` of which have content."""
    events = events_of(call.path, "broken")
    first = next(place for place, event in enumerate(events) if WORDS[0].encode() in event)
    return events[: first + content]


def breaks_after(content: int, *, reset: bool) -> Behaviour:
    """A stream that ends before its time: by a RST, or as if it were whole."""

    async def behave(call: Call) -> None:
        await fake.start_stream(call)
        for event in _some(call, content):
            await call.chunk(event)
        if reset:
            call.reset()
        else:
            await call.chunk(b"")

    return behave


def stalls_after(content: int) -> Behaviour:
    async def behave(call: Call) -> None:
        await fake.start_stream(call)
        for event in _some(call, content):
            await call.chunk(event)
        await call.gone.wait()

    return behave


def then(content: int, *blocks: bytes) -> Behaviour:
    """A stream that says something else after `content` events of content."""

    async def behave(call: Call) -> None:
        await fake.start_stream(call)
        for block in [*_some(call, content), *blocks]:
            await call.chunk(block)
        await call.chunk(b"")

    return behave


def error_event(call: Call, kind: str = "overloaded_error") -> bytes:
    body = error_body(call.path, kind, None, "Overloaded, said https://10.0.0.1/internal of sk-canary-upstream.")
    if call.path.endswith("/responses"):
        message = body["error"]["message"]
        return named({"type": "error", "sequence_number": 9, "code": kind, "message": message, "param": None})
    return named(body) if "/messages" in call.path else unnamed(body)


def reports_error_after(content: int) -> Behaviour:
    async def behave(call: Call) -> None:
        await then(content, error_event(call))(call)

    return behave


OVERLOADED = refuses(529, "overloaded_error")
REFUSED_KEY = refuses(401, "authentication_error", text="Incorrect key: sk-canary-gpt-of-the-operator")
