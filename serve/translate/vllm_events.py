"""Where the streams of vLLM 0.32 depart from the vendors' published schemas.

A stream has an event per token, so an event is parsed only where something may have to change; a few searches
in its bytes tell. Searching is safe: inside a JSON string the quotes would be escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from serve.errors import Unavailable
from serve.schemas import Json
from serve.translate.sse import Event
from serve.translate.vllm_bodies import mend_item, mend_part, mend_response
from serve.translate.vllm_errors import from_event

MendEvent: TypeAlias = Callable[[str, bytes, Event, Json], bytes]
"""Takes the path, the block, what it says, and the request; gives the block to send.

Raises the `SwitchboardError` that the block tells of.
"""


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How one endpoint's stream is read.

    `passes` tells of a chunk of whole blocks that none needs a look. `opening` names the events that say no
    more than that the request was taken: they do not yet commit the answer.
    """

    kind: str
    passes: Callable[[bytes], bool]
    mend: MendEvent
    opening: frozenset[str] = frozenset()


def _completion_passes(chunk: bytes) -> bool:
    return not (
        b'data: {"error"' in chunk
        or b'"logprobs":{"content"' in chunk
        or b'"finish_reason":"abort"' in chunk
        or b'"finish_reason":"repetition"' in chunk
    )


def _mend_completion(path: str, block: bytes, event: Event, request: Json) -> bytes:
    """An event of `/v1/chat/completions` or `/v1/completions`."""
    if (event.data or b"").startswith(b'{"error"'):
        raise from_event(path, event.data or b"")
    if b'"finish_reason":"abort"' in block:
        raise Unavailable("The model gave this request up.", retry_after_s=1.0)
    block = block.replace(b'"finish_reason":"repetition"', b'"finish_reason":"stop"')
    return block.replace(b'"logprobs":{"content"', b'"logprobs":{"refusal":null,"content"')


def _message_passes(chunk: bytes) -> bool:
    return b"event: error" not in chunk


def _mend_message(path: str, block: bytes, event: Event, request: Json) -> bytes:
    """An event of `/v1/messages`."""
    if event.name == "error":
        raise from_event(path, event.data or b"")
    return block


_DELTAS = (
    b"event: response.output_text.delta\n",
    b"event: response.function_call_arguments.delta\n",
    b"event: response.reasoning_text.delta\n",
)


def _response_passes(chunk: bytes) -> bool:
    return chunk.startswith(_DELTAS) and b"\nevent: " not in chunk


def _mend_response(path: str, block: bytes, event: Event, request: Json) -> bytes:
    """An event of `/v1/responses`."""
    data = event.data or b""
    if event.name == "error" or data.startswith(b'{"error"'):
        raise from_event(path, data)
    try:
        body = json.loads(data)
    except ValueError:
        return block
    if not isinstance(body, dict):
        return block
    response, item, part = body.get("response"), body.get("item"), body.get("part")
    if isinstance(response, dict):
        mend_response(response, request)
        if response.get("status") == "incomplete":
            # vLLM calls an answer cut off by max_output_tokens completed.
            body["type"] = "response.incomplete"
    if isinstance(item, dict):
        mend_item(item)
    if isinstance(part, dict):
        mend_part(part)
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"event: {body.get('type', event.name)}\ndata: {text}\n\n".encode()


STREAMS: dict[str, StreamRules] = {
    "/v1/chat/completions": StreamRules("chat", _completion_passes, _mend_completion),
    "/v1/completions": StreamRules("completion", _completion_passes, _mend_completion),
    "/v1/messages": StreamRules("message", _message_passes, _mend_message),
    "/v1/responses": StreamRules(
        "response",
        _response_passes,
        _mend_response,
        opening=frozenset({"response.created", "response.queued", "response.in_progress"}),
    ),
}
"""By path."""
