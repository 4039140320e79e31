"""What vLLM 0.32 says when something is wrong, as the errors of our own tree.

It has four forms for it: OpenAI's body with an integer `code`, Anthropic's with types of its own, FastAPI's
`{"detail": ...}`, and, in streams of /v1/responses, an exception after the status is sent. Messages come with
pydantic's dumps, names of its own parameters, the list of all models, and the server's environment variables.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from serve.errors import (
    CONTEXT_LENGTH,
    BodyTooLarge,
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
)

_LONGEST_MESSAGE = 600
# What is read of a message, which may hold a client's text: some patterns below take quadratic time.
_LONGEST_DUMP = 12_000
_LONGEST_READ = 2_000
_RETRY_AFTER_S = 1.0
_NO_DETAIL = "The request is not valid."
_ENGINE_FAILED = "The model failed on this request."
_NOT_SERVED = "This model does not serve this endpoint."

# vLLM runs one set of parameters inside; the caller knows them by the names of the endpoint.
_PARAMS: dict[str, dict[str, str]] = {
    "/v1/chat/completions": {
        "input_text": "messages",
        "input_tokens": "messages",
        "logprobs": "top_logprobs",
    },
    "/v1/completions": {"input_text": "prompt", "input_tokens": "prompt"},
    "/v1/responses": {
        "input_text": "input",
        "input_tokens": "input",
        "logprobs": "top_logprobs",
        "response_id": "previous_response_id",
    },
    "/v1/messages": {
        "input_text": "messages",
        "input_tokens": "messages",
        "max_completion_tokens": "max_tokens",
        "stop": "stop_sequences",
    },
    "/v1/messages/count_tokens": {"input_text": "messages", "input_tokens": "messages"},
    "/v1/embeddings": {"input_text": "input", "input_tokens": "input"},
}

_FASTAPI_ENTRY = re.compile(r"'loc': '(?P<loc>[^']*)', 'msg': (?P<msg>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_PYDANTIC_ENTRY = re.compile(r"^(?P<loc>\S+)\n {2}(?P<msg>.*?) \[type=", re.MULTILINE)
_PARAMETER_NOTE = re.compile(r" \(parameter=(?P<param>[\w.]+)(?:, value=.*)?\)\Z", re.DOTALL)
_LEADING_PARAMETER = re.compile(r"`?(?P<param>[a-z]+(?:_[a-z]+)*)`?(?:=\S+)? (?:must|cannot|should) ")
_UNKNOWN_MODEL = re.compile(r"The model `.*` does not exist", re.DOTALL)
_UNKNOWN_RESPONSE = re.compile(r"Response with id '.*' not found", re.DOTALL)
_NO_TOOLS = re.compile(r'(?:"auto" tool choice|tool_choice=.{1,200}?) requires --', re.DOTALL)
_CONTEXT_LENGTH = re.compile(r"maximum context length|exceeds the max_model_len")
# /v1/messages reads vLLM's own chat stream; an error in it becomes a complaint that names the status last.
_NESTED_STATUS = re.compile(r"'code': (\d{3})\}")

_SCRUBBED = (
    # Hints for whoever runs the server: environment variables and flags.
    (re.compile(r"[^.!?]*(?:\bVLLM_[A-Z_]+|--[a-z]+-[a-z-]+)[^.!?]*[.!?]?"), ""),
    (re.compile(r"\s*Valid aliases:.*", re.DOTALL), ""),
    (re.compile(r"\s*Traceback \(most recent call last\):.*", re.DOTALL), ""),
    (re.compile(r"\s*For further information visit \S+"), ""),
    (re.compile(r"\[\d\d:\d\d:\d\d\] /\S+:\d+: "), ""),
    (re.compile(r"(?<![\w:/.])/(?:[\w.\-]+/)+[\w.\-]+"), "<path>"),
    (re.compile(r" at 0x[0-9a-fA-F]+"), ""),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as vLLM told it."""

    status: int
    message: str
    param: str | None = None


def from_body(path: str, status: int, body: bytes) -> SwitchboardError:
    """The error in a reply whose status says that there is one."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    return error_for(path, _read(told, status))


def from_event(path: str, data: bytes) -> SwitchboardError:
    """The error in an event of a stream."""
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    fault = _read(told, 500)
    nested = _NESTED_STATUS.search(fault.message, 0, _LONGEST_DUMP)
    if fault.status == 500 and nested:
        fault = Fault(int(nested[1]), _NO_DETAIL)
    return error_for(path, fault)


def from_exception(path: str, error: BaseException) -> SwitchboardError:
    """The error in an exception that came out of vLLM's app.

    Starlette wraps one that it meets after the response began. vLLM's classes are known by name here, since
    this package does not import it; that a bare ValueError or TypeError is the caller's doing is vLLM's rule.
    """
    origin = error.__cause__ or error
    names = {cls.__name__ for cls in type(origin).__mro__}
    if names & {"VLLMClientError", "ValueError", "TypeError", "OverflowError"}:
        status = 404 if "VLLMNotFoundError" in names else 400
    else:
        status = 503 if "RetryableRequestError" in names else 500
    return error_for(path, Fault(status, str(origin), getattr(origin, "parameter", None)))


def error_for(path: str, fault: Fault) -> SwitchboardError:
    """The error of our tree for a fault at an endpoint, in words that are the caller's to read."""
    if fault.status >= 500:
        return _ours(fault.status)
    if fault.status == 429:
        return TooManyRequests("The model is at its limit of requests.", retry_after_s=_RETRY_AFTER_S)
    message, param = _explain(fault)
    if param and (renamed := _PARAMS.get(path, {}).get(param)):
        message = re.sub(rf"\b{param}\b", renamed, message)
        param = renamed
    if fault.status == 404:
        return _not_found(fault.message)
    if fault.status == 405:
        return MethodNotAllowed("This endpoint takes POST only.", ("POST",))
    if fault.status == 413:
        return BodyTooLarge(message)
    code = CONTEXT_LENGTH if _CONTEXT_LENGTH.search(message) else None
    return InvalidRequest(message, param, code)


def _ours(status: int) -> SwitchboardError:
    if status == 501:
        return NotFound(_NOT_SERVED, code="unsupported_endpoint")
    if status == 503:
        return Unavailable("The model cannot take this request right now.", retry_after_s=_RETRY_AFTER_S)
    return EngineFailed(_ENGINE_FAILED)


def _not_found(message: str) -> SwitchboardError:
    if _UNKNOWN_MODEL.match(message):
        return NotFound("The model does not exist.", "model", "model_not_found")
    if _UNKNOWN_RESPONSE.match(message):
        # OpenAI answers 400 here.
        return InvalidRequest(
            "The previous response was not found.", "previous_response_id", "previous_response_not_found"
        )
    return NotFound(_NOT_SERVED, code="unsupported_endpoint")


def _read(told: Any, status: int) -> Fault:
    """Take any of vLLM's bodies apart."""
    if not isinstance(told, dict):
        return Fault(status, _NO_DETAIL)
    error = told.get("error")
    if isinstance(error, dict):
        code, param = error.get("code"), error.get("param")
        return Fault(
            code if isinstance(code, int) and 400 <= code < 600 else status,
            str(error.get("message") or _NO_DETAIL),
            param if isinstance(param, str) else None,
        )
    detail = told.get("detail")
    return Fault(status, detail if isinstance(detail, str) else _NO_DETAIL)


def _explain(fault: Fault) -> tuple[str, str | None]:
    """What is wrong, in a sentence, and with which field."""
    entries = _entries(fault.message)
    if entries:
        # Where a field may be one of several things, the deepest complaint is about the one that was meant.
        param, message = max(entries, key=lambda entry: entry[0].count(".") + entry[0].count("["))
        message = message.removeprefix("Value error, ")
        return _scrubbed(f"{param}: {message}" if param else message), param or None
    return _plain(fault)


def _plain(fault: Fault) -> tuple[str, str | None]:
    message, param = fault.message[:_LONGEST_READ], fault.param
    if _NO_TOOLS.match(message):
        return "This model is not set up for tool calls.", "tools"
    if note := _PARAMETER_NOTE.search(message):
        message, param = message[: note.start()], param or note["param"]
    if param is None and (leading := _LEADING_PARAMETER.match(message)):
        param = leading["param"]
    return _scrubbed(message), _field(param) if param else None


def _entries(message: str) -> list[tuple[str, str]]:
    """The field and the complaint of each entry in a dump of validation errors; empty if it is none."""
    found = [
        (_field(entry["loc"]), str(ast.literal_eval(entry["msg"])))
        for entry in _FASTAPI_ENTRY.finditer(message, 0, _LONGEST_DUMP)
    ]
    if not found and " validation error" in message[:40]:
        found = [("", entry["msg"]) for entry in _PYDANTIC_ENTRY.finditer(message, 0, _LONGEST_DUMP)]
    return found


def _field(loc: str) -> str:
    """`body.messages.0.ChatCompletionUserMessageParam.role` as `messages[0].role`."""
    parts = loc.removeprefix("body").strip(".").split(".")
    named = [part for part in parts if not part[:1].isupper()]
    if named and named[0].isdigit():
        return ""  # a position in the JSON text
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in named).removeprefix(".")


def _scrubbed(message: str) -> str:
    message = message[:_LONGEST_READ]
    for pattern, replacement in _SCRUBBED:
        message = pattern.sub(replacement, message)
    message = message.strip()
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 1] + "…"
    return message or _NO_DETAIL
