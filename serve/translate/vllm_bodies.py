"""Where the bodies of vLLM 0.32 depart from the vendors' published schemas, and what they want instead.

vLLM serialises every field it has, null where there is nothing. The schemas know three kinds of such fields:
those that may be null stay, those that may only be absent go, and those that must be there get the value that
means "nothing". Schemas: OpenAI's OpenAPI document, for /v1/responses also openresponses.org, and Anthropic's
API reference; the SDKs' own response types say the same more leniently. The functions change bodies in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from serve.schemas import Json

Mend: TypeAlias = Callable[[Json, Json], None]
"""Takes a body and the request that it answers; may raise `Aborted`."""


class Aborted(Exception):
    """The engine gave the request up half way. What it has is no whole answer."""


_NULLABLE_IN_CHOICE = frozenset({"logprobs", "finish_reason"})
_NULLABLE_IN_MESSAGE = frozenset({"content", "refusal", "audio"})
_NULLABLE_IN_TOOL = frozenset({"description", "parameters", "strict"})
_VLLM_ONLY = (
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
    "input_messages",
    "output_messages",
)
_ECHOED = ("safety_identifier", "prompt_cache_key")


def mend_chat(body: Json, request: Json) -> None:
    """`/v1/chat/completions`. Raises: Aborted."""
    _drop_nulls(body, _VLLM_ONLY)
    _mend_usage(body)
    for choice in _objects(body, "choices"):
        _keep_nulls(choice, _NULLABLE_IN_CHOICE)
        _mend_finish_reason(choice)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            logprobs.setdefault("refusal", None)
        message = choice.get("message")
        if isinstance(message, dict):
            _keep_nulls(message, _NULLABLE_IN_MESSAGE)
            message.setdefault("refusal", None)
            message.setdefault("annotations", [])


def mend_completion(body: Json, request: Json) -> None:
    """`/v1/completions`. Raises: Aborted."""
    _drop_nulls(body, (*_VLLM_ONLY, "service_tier"))
    _mend_usage(body)
    for choice in _objects(body, "choices"):
        _keep_nulls(choice, _NULLABLE_IN_CHOICE)
        _mend_finish_reason(choice)


def mend_message(body: Json, request: Json) -> None:
    """`/v1/messages`."""
    body.setdefault("stop_reason", None)
    body.setdefault("stop_sequence", None)
    for block in _objects(body, "content"):
        if block.get("type") == "text":
            block.setdefault("citations", None)


def mend_response(body: Json, request: Json) -> None:
    """`/v1/responses`, and the response inside its streams' lifecycle events."""
    _drop_nulls(body, _VLLM_ONLY)
    finished = body.get("status") == "completed"
    body.setdefault("completed_at", int(time.time()) if finished else None)
    body.setdefault("error", None)
    # vLLM keeps no responses unless it is started for that, whatever the request asks.
    body.setdefault("store", False)
    for field in _ECHOED:
        value = request.get(field)
        body.setdefault(field, value if isinstance(value, str) else None)
    if body.get("metadata") is None:
        body["metadata"] = {}
    if body.get("top_logprobs") is None:
        body["top_logprobs"] = 0
    _mend_text(body)
    for tool in _objects(body, "tools"):
        _keep_nulls(tool, _NULLABLE_IN_TOOL)
    for item in _objects(body, "output"):
        mend_item(item)


def mend_item(item: Json) -> None:
    """One output item of a response."""
    _keep_nulls(item)
    for part in _objects(item, "content"):
        mend_part(part)


def mend_part(part: Json) -> None:
    """One content part of an output item."""
    if part.get("type") == "output_text":
        if part.get("annotations") is None:
            part["annotations"] = []
        if part.get("logprobs") is None:
            part["logprobs"] = []


def _mend_text(body: Json) -> None:
    text = body.get("text")
    if not isinstance(text, dict):
        text = body["text"] = {}
    _keep_nulls(text)
    text_format = text.setdefault("format", {"type": "text"})
    if isinstance(text_format, dict) and text_format.get("type") == "json_schema":
        text_format["strict"] = bool(text_format.get("strict"))


def _mend_usage(body: Json) -> None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return
    _keep_nulls(usage)
    for details in ("prompt_tokens_details", "completion_tokens_details"):
        if isinstance(usage.get(details), dict):
            _keep_nulls(usage[details])


def _mend_finish_reason(choice: Json) -> None:
    """Two reasons of vLLM's that OpenAI's schema does not know."""
    if choice.get("finish_reason") == "repetition":
        choice["finish_reason"] = "stop"
    if choice.get("finish_reason") == "abort":
        raise Aborted


def _objects(body: Json, field: str) -> Iterable[Json]:
    value: Any = body.get(field)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _keep_nulls(body: Json, nullable: frozenset[str] = frozenset()) -> None:
    """Leave out every null but those that the schema allows."""
    for field in [field for field, value in body.items() if value is None and field not in nullable]:
        del body[field]


def _drop_nulls(body: Json, fields: Iterable[str]) -> None:
    for field in fields:
        if field in body and body[field] is None:
            del body[field]


MENDS: dict[str, Mend] = {
    "/v1/chat/completions": mend_chat,
    "/v1/completions": mend_completion,
    "/v1/responses": mend_response,
    "/v1/messages": mend_message,
}
"""By path. What is not here is as the schema has it."""
