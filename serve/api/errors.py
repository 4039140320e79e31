"""Errors in the words of the API that was called.

OpenAI: `{"error": {"message", "type", "param", "code"}}`, codes and types are strings
(https://platform.openai.com/docs/guides/error-codes, `openai.types.shared.ErrorObject`).
Anthropic: `{"type": "error", "error": {"type", "message"}, "request_id"}`
(https://docs.claude.com/en/api/errors, `anthropic.types.ErrorResponse`).
"""

from __future__ import annotations

import json
import math
import re

from serve.api.endpoints import Kind
from serve.api.http import Reply, json_reply
from serve.errors import (
    NO_CREDIT,
    ConfigError,
    EngineFailed,
    MethodNotAllowed,
    RequestError,
    ServiceError,
    SwitchboardError,
    UnsupportedEncoding,
)
from serve.schemas import Dialect, Json

_OPENAI_TYPES = {429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_RETRYABLE = (429, 503)
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number":\s{0,4}(\d{1,18})')


def render(error: Exception, dialect: Dialect, request_id: str) -> Reply:
    """The whole reply for `error`.

    What is no error of ours to tell (a bug, a faulty configuration) becomes a 500 that says nothing; the
    request id finds it in the log.
    """
    known = _told(error)
    if dialect is Dialect.ANTHROPIC:
        payload = {**_anthropic(known), "request_id": request_id}
    else:
        payload = {"error": _openai(known)}
    return json_reply(known.status, payload, _headers(known))


def stream_error(error: Exception, kind: str, request_id: str, last: bytes = b"") -> bytes:
    """The end of a stream that broke after its status was sent: one error event, as the `Kind` has it.

    `last` holds the events sent last: those of `/v1/responses` are numbered, and the error takes the next
    number. Only the two older OpenAI streams are closed by `[DONE]`.
    """
    known = _told(error)
    if kind == Kind.MESSAGE:
        return _event({**_anthropic(known), "request_id": request_id}, name="error")
    if kind == Kind.RESPONSE:
        body = _openai(known)
        event: Json = {"type": "error", **{field: body[field] for field in ("code", "message", "param")}}
        return _event({**event, "sequence_number": _next_number(last)}, name="error")
    return _event({"error": _openai(known)}) + b"data: [DONE]\n\n"


def _next_number(events: bytes) -> int:
    # Inside a JSON string the quotes would be escaped, so this is the field and never a piece of the answer.
    numbers = _SEQUENCE_NUMBER.findall(events)
    return int(numbers[-1]) + 1 if numbers else 0


def _told(error: Exception) -> SwitchboardError:
    """`error` as far as the caller may know it."""
    if isinstance(error, SwitchboardError) and not isinstance(error, ConfigError):
        return error
    return ServiceError("An internal error occurred. The request id finds it in the log.")


def _openai(error: SwitchboardError) -> Json:
    kind = _OPENAI_TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code}


def _anthropic(error: SwitchboardError) -> Json:
    kind = _ANTHROPIC_TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "api_error"
    message = error.message
    if error.param and error.param not in message:
        # Anthropic's body has no place for the field but the message.
        message = f"{error.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def _headers(error: SwitchboardError) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    if error.status in _RETRYABLE or error.retry_after_s is not None:
        seconds = max(1, math.ceil(error.retry_after_s or 1))
        headers.append((b"retry-after", str(seconds).encode()))
    if isinstance(error, EngineFailed) or error.code == NO_CREDIT:
        # Both SDKs obey it: a request that broke one engine must not be sent to the next, and credit does not come back
        # by asking.
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    if isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", b"identity"))
    return headers


def _event(payload: Json, name: str | None = None) -> bytes:
    data = f"data: {json.dumps(payload, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{data}" if name else data).encode()
