"""Reading a request's body: JSON that is hostile, and fields that are missing or of the wrong kind.

The checks are light and come first, before any model is looked up. What they let through the engine judges:
ranges, tools, sampling parameters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from serve.api.endpoints import Kind
from serve.errors import InvalidRequest
from serve.quoting import printable
from serve.schemas import Json

MODEL_NAME_LIMIT = 512
"""Characters; longer ones are nobody's model."""

MAX_FALLBACKS = 8

_FORBIDDEN = ("api_base", "base_url", "api_key", "extra_headers")
"""Fields by which some gateways let a client redirect a request or its credentials (CVE-2024-6587)."""

_OPENAI_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_ANTHROPIC_ROLES = ("user", "assistant", "system")
_MAY_LACK_CONTENT = ("assistant", "function")
"""An assistant's message may hold tool calls alone; OpenAI's schema lets a function's be null."""

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_JSON_NAMES = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def parse_object(body: bytes) -> Json:
    """`body` as a JSON object.

    Raises: InvalidRequest, which says where in the body the fault lies.
    """
    try:
        text = body.decode("utf-8")
        value = _DECODER.decode(text)
        if _ESCAPED_SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not valid UTF-8 at byte {error.start}.") from error
    except UnicodeEncodeError as error:
        raise InvalidRequest("The request body holds half of a surrogate pair.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The request body is not valid JSON at {where}: {error.msg}.") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error
    except ValueError as error:  # Python's bound on the digits of an integer
        raise InvalidRequest("The request body holds a number that is too long.") from error
    if not isinstance(value, dict):
        name = _JSON_NAMES.get(type(value), "null")
        raise InvalidRequest(f"The request body must be a JSON object, not {name}.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The request body is not valid JSON: {name} is no JSON value.")


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise InvalidRequest("The request body holds a number that is too large.")
    return number


def validate(kind: Kind, body: Json) -> None:
    """Refuse what no model could answer, naming the field.

    Raises: InvalidRequest with `param` set, as `messages[2].role`.
    """
    for name in _FORBIDDEN:
        if name in body:
            _refuse(name, "is not accepted in a request")
    if not has_fallbacks_of_its_provider(kind, body):
        _check_fallbacks(body.get("fallbacks"))
    _check_model(body)
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        _refuse("stream", "must be true or false")
    check = _CHECKS.get(kind)
    if check is not None:
        check(body)


def validate_for_engine(kind: Kind, body: Json) -> None:
    """Refuse what only its vendor answers, and an engine would choke on or pass over.

    Raises: InvalidRequest with `param` set.
    """
    if has_fallbacks_of_its_provider(kind, body):
        _refuse("fallbacks", "must be a list of models", code="unsupported_parameter")
    if kind is Kind.MESSAGE and body.get("max_tokens") == 0:
        _refuse("max_tokens", "must be a positive integer for this model", code="unsupported_parameter")
    if kind is Kind.RESPONSE:
        _check_input(body)


def has_fallbacks_of_its_provider(kind: Kind, body: Json) -> bool:
    """Whether `fallbacks` is no list of ours but Anthropic's own field (beta): `"default"`, or objects with a model."""
    value = body.get("fallbacks")
    ours = value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    return kind is Kind.MESSAGE and not ours


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _check_fallbacks(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        _refuse("fallbacks", "must be a list of models")
    if len(value) > MAX_FALLBACKS:
        _refuse("fallbacks", f"must name {MAX_FALLBACKS} models at most")


def _check_model(body: Json) -> None:
    model = _required(body, "model")
    if not isinstance(model, str):
        _refuse("model", "must be a string")
    if not model.strip():
        _refuse("model", "must not be empty")
    if len(model) > MODEL_NAME_LIMIT:
        _refuse("model", f"must be at most {MODEL_NAME_LIMIT} characters long")


def _check_chat(body: Json) -> None:
    _check_messages(body, _OPENAI_ROLES)


def _check_message(body: Json) -> None:
    max_tokens = _required(body, "max_tokens")
    # None at all fill Anthropic's prompt cache.
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 0:
        _refuse("max_tokens", "must be a whole number, not below 0")
    _check_count_tokens(body)


def _check_count_tokens(body: Json) -> None:
    _check_messages(body, _ANTHROPIC_ROLES)


def _check_text(field: str) -> Callable[[Json], None]:
    """A check that `field` is there: a string, or an array that is not empty."""

    def check(body: Json) -> None:
        value = _required(body, field)
        if not isinstance(value, (str, list)):
            _refuse(field, "must be a string or an array")
        if value == []:
            _refuse(field, "must not be empty")

    return check


_check_input = _check_text("input")


def _check_response(body: Json) -> None:
    """What OpenAI stores may stand in for `input`."""
    stored = any(body.get(name) is not None for name in ("conversation", "previous_response_id", "prompt"))
    if not stored or body.get("input") not in (None, []):
        _check_input(body)


_CHECKS: dict[Kind, Callable[[Json], None]] = {
    Kind.CHAT: _check_chat,
    Kind.COMPLETION: _check_text("prompt"),
    Kind.EMBEDDING: _check_input,
    Kind.RESPONSE: _check_response,
    Kind.MESSAGE: _check_message,
    Kind.COUNT_TOKENS: _check_count_tokens,
}


def _check_messages(body: Json, roles: tuple[str, ...]) -> None:
    messages = _required(body, "messages")
    if not isinstance(messages, list):
        _refuse("messages", "must be an array")
    if not messages:
        _refuse("messages", "must not be empty")
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message, dict):
            _refuse(at, "must be an object")
        role = message.get("role")
        if role is None:
            _refuse(f"{at}.role", "is required")
        if role not in roles:
            known = ", ".join(roles)
            _refuse(f"{at}.role", f"must be one of {known}, not {printable(json.dumps(role), 60)}")
        _check_content(message.get("content"), f"{at}.content", may_lack=role in _MAY_LACK_CONTENT)


def _check_content(content: Any, at: str, *, may_lack: bool) -> None:
    if content is None:
        if not may_lack:
            _refuse(at, "is required")
    elif isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict):
                _refuse(f"{at}[{index}]", "must be an object")
            if not isinstance(part.get("type"), str):
                _refuse(f"{at}[{index}].type", "must be a string")
    elif not isinstance(content, str):
        _refuse(at, "must be a string or an array of content parts")


def _required(body: Json, field: str) -> Any:
    value = body.get(field)
    if value is None:
        _refuse(field, "is required", code="missing_required_parameter")
    return value


def _refuse(param: str, fault: str, code: str | None = None) -> NoReturn:
    raise InvalidRequest(f"{param} {fault}.", param=param, code=code)
