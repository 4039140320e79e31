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
    PROVIDER_NOT_FOUND,
    PROVIDER_REFUSED,
    REFUSED_KEY,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
)
from serve.schemas import Json

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|prompt is too long|input is too long|too many tokens",
    re.IGNORECASE,
)
_CALLERS_THING = re.compile(
    r"(?!\W*file not found\W*$|.*/v\d)"  # llama.cpp's, and Express', for an endpoint that is not there
    r"(?!.*\b(?:models?|deployments?|endpoints?|routes?|urls?|api|projects?|workspaces?|accounts?|providers?)\b)"
    r".*\b(?:files?|responses?|conversations?|containers?|vector[ _]stores?|batch|prompts?|items?|messages?|skills?)\b",
    re.IGNORECASE | re.DOTALL,
)
"""What a 404 says that means something a request names. All others mean the operator's row: `model_id`, `base_url`."""
_NO_CREDIT = re.compile(r"credit balance|exceeded your current quota", re.IGNORECASE)
_SECRETS = re.compile(
    r"(?<![a-z0-9])(?:(?:sk|pk|rk|gsk|hf|key)[-_][a-z0-9*_.-]{4,}|bearer\s+\S+|[a-z0-9_-]{32,})|https?://\S+",
    re.IGNORECASE,
)
_NO_MODEL_CODES = frozenset({"model_not_found", "DeploymentNotFound", "unknown_url"})
_NOT_THERE = "The provider does not know the model or the endpoint."
_CODE = re.compile(r"(?!\d+$)[A-Za-z0-9_.-]{1,64}")
"""A number is the status once more, as vLLM and llama.cpp have it."""
_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}")


def from_answer(status: int, body: bytes, headers: Mapping[str, str]) -> SwitchboardError:
    """The error for a provider's answer that is none, by its status and body."""
    return _mapped(status, _details(_parsed(body)), retry_after_s(headers))


def from_event(event: Json) -> SwitchboardError:
    """The error for one inside a 200, in an event of a stream or in a whole answer: `provider_events.error_in`."""
    details = _details(event)
    kinds = (str(details.get(key)) for key in ("code", "type"))
    status = next((_STATUS_INSIDE[kind] for kind in kinds if kind in _STATUS_INSIDE), _as_status(details.get("code")))
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


_FILTERED = frozenset(
    {
        CONTENT_FILTER, "content_policy_violation", "image_content_policy_violation", "bio_policy",
        "misalignment_policy_violation",
    }
)  # fmt: skip
_BAD_INPUT = (
    "invalid_prompt", "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url",
    "invalid_image_mode", "image_parse_error", "image_too_large", "image_too_small", "image_file_too_large",
    "unsupported_image_media_type", "empty_image_file", "failed_to_download_image", "image_file_not_found",
)  # fmt: skip
"""`openai.types.responses.ResponseError`: what a request of `/v1/responses` brought along."""

_STATUS_INSIDE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    NO_CREDIT: 429,
    "server_error": 502,
    "timeout_error": 504,
    "vector_store_timeout": 504,
    "overloaded_error": 529,
    CONTEXT_LENGTH: 400,
    **dict.fromkeys((*_FILTERED, *_BAD_INPUT), 400),
}
"""By the code or the type of an error that has no status of its own."""


def _mapped(status: int, details: Json, wait_s: float | None) -> SwitchboardError:
    code, kind, text = (str(details.get(key) or "") for key in ("code", "type", "message"))
    if status in {401, 403} and code != CONTENT_FILTER:
        # Our key's troubles are not the caller's, and the text quotes pieces of the key.
        return UpstreamFailed("The provider refused our credentials.", code=REFUSED_KEY)
    if status in {402, 429} or (status == 400 and _NO_CREDIT.search(text)):
        poor = status == 402 or NO_CREDIT in (code, kind) or "credit" in code or _NO_CREDIT.search(text)
        quota = NO_CREDIT if poor else None
        return TooManyRequests("The provider is at its limit of requests.", code=quota, retry_after_s=wait_s)
    if status in {400, 413, 422} or code == CONTENT_FILTER:
        return _of_the_caller(status, code, text, details.get("param"))
    if status in {408, 504}:
        return DeadlineExceeded("The provider did not answer in time.")
    if status in {503, 529}:
        return Unavailable("The provider is overloaded.", code="provider_overloaded", retry_after_s=wait_s)
    if status == 404:
        return _not_found(code, text, details)
    if status in {405, 501}:
        return UpstreamFailed(_NOT_THERE, code=PROVIDER_NOT_FOUND)
    if status < 500:
        return UpstreamFailed("The provider redirected or refused this request.", code=PROVIDER_REFUSED)
    return UpstreamFailed("The provider failed on this request.", retry_after_s=wait_s)


def _of_the_caller(status: int, code: str, text: str, param: Any) -> SwitchboardError:
    message = scrubbed(text) or "The provider refused the request."
    field = param if isinstance(param, str) and _FIELD.fullmatch(param) and not _SECRETS.search(param) else None
    own_code = code if _CODE.fullmatch(code) and not _SECRETS.search(code) else None
    if status == 404:
        return NotFound(message, field, own_code)
    if code == CONTEXT_LENGTH or _TOO_LONG.search(text):
        return InvalidRequest(message, field, CONTEXT_LENGTH)
    if code in _FILTERED:
        return InvalidRequest(message, field, CONTENT_FILTER)
    if status == 413:
        return BodyTooLarge(message, field)
    return InvalidRequest(message, field, own_code)


def _not_found(code: str, text: str, details: Json) -> SwitchboardError:
    """The operator's, where it is the model or the address that is unknown; else what the caller named: a file."""
    param = details.get("param")
    names_a_field = isinstance(param, str) and param != "model"
    if code not in _NO_MODEL_CODES and (names_a_field or _CALLERS_THING.match(text)):
        return _of_the_caller(404, code, text, param)
    return UpstreamFailed(_NOT_THERE, code=PROVIDER_NOT_FOUND)


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
    """Of an error. SGLang and older vLLMs have them at the top."""
    error = payload.get("error", payload)
    return error if isinstance(error, dict) else {}


def _as_status(code: Any) -> int:
    return code if type(code) is int and 400 <= code < 600 else 502
