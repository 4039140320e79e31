"""The one place that says what a vendor's error means to us.

Both vendors' bodies hold `error.message` and `error.type`, OpenAI's also `error.code` and `error.param`
(https://platform.openai.com/docs/guides/error-codes, https://docs.claude.com/en/api/errors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from serve.errors import (
    CONTENT_FILTER,
    CONTEXT_LENGTH,
    NO_CREDIT,
    REFUSED_KEY,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
)
from serve.schemas import Json

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0
_TOO_LONG = re.compile(
    r"context[ _](length|window)|maximum context|prompt is too long|input is too long|too many tokens", re.IGNORECASE
)
_NO_CREDIT = re.compile(r"credit balance|exceeded your current quota", re.IGNORECASE)
_SECRETS = re.compile(
    r"(?<![a-z0-9])(?:(?:sk|pk|rk|gsk|hf|key)[-_][a-z0-9*_.-]{4,}|bearer\s+\S+|[a-z0-9_-]{32,})|https?://\S+",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}")


def from_answer(status: int, body: bytes, headers: Mapping[str, str]) -> SwitchboardError:
    """The error for a provider's answer that is none, by its status and body."""
    return _mapped(status, _details(_parsed(body)), retry_after_s(headers))


def from_event(event: Json) -> SwitchboardError:
    """The error for one that came inside a stream: `provider_events.error_in`."""
    details = _details(event)
    kinds = (str(details.get(key)) for key in ("type", "code"))
    status = next((_STATUS_OF_TYPE[kind] for kind in kinds if kind in _STATUS_OF_TYPE), 502)
    return _mapped(status, details, None)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait: `retry-after-ms`, or `retry-after` as seconds or an HTTP date."""
    milliseconds, value = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", milliseconds):
        return min(float(milliseconds) / 1000, MAX_RETRY_AFTER_S)
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time(), 0.0), MAX_RETRY_AFTER_S)
    except (TypeError, ValueError, OverflowError):
        return None


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    NO_CREDIT: 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    CONTEXT_LENGTH: 400,
    CONTENT_FILTER: 400,
}


def _mapped(status: int, details: Json, wait_s: float | None) -> SwitchboardError:
    code, kind, text = (str(details.get(key) or "") for key in ("code", "type", "message"))
    if status in {401, 403} and code != CONTENT_FILTER:
        # Our key's troubles are not the caller's, and the text quotes pieces of the key.
        return UpstreamFailed("The provider refused our credentials.", code=REFUSED_KEY)
    if status == 429 or (status == 400 and _NO_CREDIT.search(text)):
        poor = NO_CREDIT in (code, kind) or "credit" in code or _NO_CREDIT.search(text)
        quota = NO_CREDIT if poor else None
        return TooManyRequests("The provider is at its limit of requests.", code=quota, retry_after_s=wait_s)
    if status in {400, 413, 422} or code == CONTENT_FILTER:
        return _of_the_caller(status, code, text, details.get("param"))
    if status in {408, 504}:
        return DeadlineExceeded("The provider did not answer in time.")
    if status in {503, 529}:
        return Unavailable("The provider is overloaded.", code="provider_overloaded", retry_after_s=wait_s)
    if status == 404:
        return UpstreamFailed("The provider does not know the model or the endpoint.", code="provider_not_found")
    if 300 <= status < 400:
        return UpstreamFailed("The provider answered with a redirect.")
    return UpstreamFailed("The provider failed on this request.", retry_after_s=wait_s)


def _of_the_caller(status: int, code: str, text: str, param: Any) -> SwitchboardError:
    message = scrubbed(text) or "The provider refused the request."
    field = param if isinstance(param, str) and _FIELD.fullmatch(param) and not _SECRETS.search(param) else None
    if code == CONTEXT_LENGTH or _TOO_LONG.search(text):
        return InvalidRequest(message, field, CONTEXT_LENGTH)
    if code in {CONTENT_FILTER, "content_policy_violation"}:
        return InvalidRequest(message, field, CONTENT_FILTER)
    if status == 413:
        return BodyTooLarge(message, field)
    return InvalidRequest(message, field, code if _CODE.fullmatch(code) and not _SECRETS.search(code) else None)


def scrubbed(text: str) -> str:
    """A vendor's message as a caller may see it: one line, bounded, without keys and addresses."""
    whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    plain = _SECRETS.sub("…", " ".join(whole.split()))
    return plain if len(plain) <= MAX_MESSAGE_CHARS else plain[: MAX_MESSAGE_CHARS - 1] + "…"


def _parsed(body: bytes) -> Json:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _details(payload: Json) -> Json:
    error = payload.get("error")
    return error if isinstance(error, dict) else {}
