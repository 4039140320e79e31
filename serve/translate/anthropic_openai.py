"""Anthropic's `/v1/messages` for a provider that has OpenAI's `/v1/chat/completions`.

Anthropic: https://platform.claude.com/docs/en/api/messages/create
OpenAI: https://platform.openai.com/docs/api-reference/chat/create

What the provider's API cannot say is refused with the field's name. Left out without a word are only:

- `cache_control` wherever it stands: such providers cache by themselves, and the answer is the same;
- `thinking` and `redacted_thinking` blocks of earlier turns: no provider of this dialect takes them back;
- `eager_input_streaming` of a tool, which says how an answer is cut, not what it is;
- what asks for nothing: nulls, `speed: "standard"`, empty lists, switches that are off.

The text blocks of a turn become one string with a newline between them: every server of this dialect takes strings, not
every one takes lists of text parts. Only beside images and files do they stay parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import override

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.anthropic_openai_stream import ChatToMessages, whole_message
from serve.translate.translator import StreamTranslator, Translator, refuse

_UNSUPPORTED = "is not supported by this model's provider."
_MOST_STOPS = 4
_LONGEST_USER = 128
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TIERS = {"auto": "auto", "standard_only": "default"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_THINKING = {"enabled": ("type", "budget_tokens", "display"), "adaptive": ("type", "display"), "disabled": ("type",)}
_NEVER_SENT = ("thinking", "redacted_thinking")
_SAME = ("model", "temperature", "top_p")
_FIELDS = (
    *_SAME,
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "thinking",
    "output_config",
    "tools",
    "tool_choice",
    "metadata",
    "service_tier",
    "speed",
    "stream",
)


class MessagesToChat(Translator):
    """`length_field` is where the provider wants `max_tokens`: servers of an older dialect know only that name."""

    path = "/v1/chat/completions"

    def __init__(self, length_field: str = "max_completion_tokens") -> None:
        self._length_field = length_field

    @override
    def request(self, body: Json) -> Json:
        found = _known(body, "", *_FIELDS)
        if found.get("speed", "standard") != "standard":
            raise refuse("speed", _UNSUPPORTED)
        asked = {field: found[field] for field in _SAME if field in found}
        if "max_tokens" in found:
            asked[self._length_field] = found["max_tokens"]
        return {
            **asked,
            "messages": [*_system(found), *_messages(found)],
            **_tools(found),
            **_output(found),
            **_stops(found),
            **_caller(found),
            **_streaming(found),
        }

    @override
    def response(self, answer: Json, request: Json) -> Json:
        return whole_message(answer, request)

    @override
    def stream(self, request: Json) -> StreamTranslator:
        return ChatToMessages(request)


def _malformed(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' {why}", field)


def _known(value: Any, at: str, *fields: str) -> Json:
    """What the object `value` says: without nulls and cache markers. Refuses every field that is not in `fields`."""
    if not isinstance(value, dict):
        raise _malformed(at, "must be an object.")
    found = {field: content for field, content in value.items() if content is not None and field != "cache_control"}
    for field in found:
        if field not in fields:
            raise refuse(_inside(at, str(field)[:100]), _UNSUPPORTED)
    return found


def _inside(at: str, field: str) -> str:
    return f"{at}.{field}" if at else field


def _string(found: Json, field: str, at: str) -> str:
    value = found.get(field)
    if not isinstance(value, str):
        raise _malformed(_inside(at, field), "must be a string.")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed(at, "must be a list.")
    return value


def _flag(found: Json, field: str, at: str) -> bool:
    value = found.get(field, False)
    if not isinstance(value, bool):
        raise _malformed(_inside(at, field), "must be true or false.")
    return value


def _only(found: Json, field: str, allowed: Any, at: str) -> None:
    """A field that may only say what would happen anyway."""
    if field in found and found[field] != allowed:
        raise refuse(_inside(at, field), _UNSUPPORTED)


# Messages.


def _system(found: Json) -> list[Json]:
    text = _plain_text(found.get("system", ""), "system")
    return [{"role": "system", "content": text}] if text else []


def _messages(found: Json) -> list[Json]:
    messages: list[Json] = []
    turns = _list(found.get("messages"), "messages")
    for number, value in enumerate(turns):
        at = f"messages[{number}]"
        turn = _known(value, at, "role", "content")
        role, content, where = turn.get("role"), turn.get("content"), f"{at}.content"
        if role == "user":
            messages += _user(content, where)
        elif role == "assistant":
            # A chat completion answers such a turn instead of continuing it.
            if number == len(turns) - 1:
                raise refuse(at, "must not be an assistant turn: this model's provider cannot continue one.")
            messages.append(_assistant(content, where))
        elif role == "system":
            messages.append({"role": "system", "content": _plain_text(content, where)})
        else:
            raise _malformed(f"{at}.role", "must be 'user', 'assistant' or 'system'.")
    return messages


def _blocks(content: Any, at: str) -> Iterator[tuple[str, str, Json]]:
    """Each block's place, type and value; a string is one text block."""
    if isinstance(content, str):
        yield at, "text", {"type": "text", "text": content}
        return
    if not isinstance(content, list):
        raise _malformed(at, "must be a string or a list of content blocks.")
    for number, block in enumerate(content):
        where = f"{at}[{number}]"
        if not isinstance(block, dict):
            raise _malformed(where, "must be an object.")
        yield where, _string(block, "type", where), block


def _unsupported_type(kind: str, at: str) -> InvalidRequest:
    return refuse(f"{at}.type", f"of '{kind[:100]}' {_UNSUPPORTED}")


def _text(block: Json, at: str) -> str:
    found = _known(block, at, "type", "text", "citations")
    _only(found, "citations", [], at)
    return _string(found, "text", at)


def _plain_text(content: Any, at: str) -> str:
    """Of what may hold nothing else."""
    texts = []
    for where, kind, block in _blocks(content, at):
        if kind != "text":
            raise _unsupported_type(kind, where)
        texts.append(_text(block, where))
    return "\n".join(texts)


def _user(content: Any, at: str) -> list[Json]:
    """The turn's tool results, which must follow the calls at once, then the rest of it."""
    messages: list[Json] = []
    parts: list[Json] = []
    for where, kind, block in _blocks(content, at):
        if kind == "tool_result":
            messages.append(_tool_result(block, where))
        elif kind in _PARTS:
            parts += _PARTS[kind](block, where)
        else:
            raise _unsupported_type(kind, where)
    if all(part["type"] == "text" for part in parts):
        if parts or not messages:
            messages.append({"role": "user", "content": "\n".join(part["text"] for part in parts)})
    else:
        messages.append({"role": "user", "content": parts})
    return messages


def _text_parts(block: Json, at: str) -> list[Json]:
    return [{"type": "text", "text": _text(block, at)}]


def _image_parts(block: Json, at: str) -> list[Json]:
    found = _known(block, at, "type", "source", "transformations")
    _only(found, "transformations", {}, at)
    kind, source, where = _source(found, at)
    if kind == "base64":
        url = _data_url(source, where)
    elif kind == "url":
        url = _string(_known(source, where, "type", "url"), "url", where)
    else:
        raise _unsupported_type(kind, where)
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document_parts(block: Json, at: str) -> list[Json]:
    """Text comes after its title and context; a PDF has its title as the file's name and its context before it."""
    found = _known(block, at, "type", "source", "title", "context", "citations")
    if _flag(_known(found.get("citations", {}), f"{at}.citations", "enabled"), "enabled", f"{at}.citations"):
        raise refuse(f"{at}.citations", _UNSUPPORTED)
    kind, source, where = _source(found, at)
    title, context = (_string({"": found.get(field, "")}, "", f"{at}.{field}") for field in ("title", "context"))
    if kind == "text":
        plain = _known(source, where, "type", "media_type", "data")
        _only(plain, "media_type", "text/plain", where)
        data = _string(plain, "data", where)
        return [{"type": "text", "text": "\n".join(text for text in (title, context, data) if text)}]
    if kind != "base64":
        raise _unsupported_type(kind, where)
    if source.get("media_type") != "application/pdf":
        raise refuse(f"{where}.media_type", "must be 'application/pdf'.")
    file = {"filename": title or "document.pdf", "file_data": _data_url(source, where)}
    before = [{"type": "text", "text": context}] if context else []
    return [*before, {"type": "file", "file": file}]


def _source(found: Json, at: str) -> tuple[str, Json, str]:
    where = f"{at}.source"
    source = found.get("source")
    if not isinstance(source, dict):
        raise _malformed(where, "must be an object.")
    return _string(source, "type", where), source, where


def _data_url(source: Json, at: str) -> str:
    found = _known(source, at, "type", "media_type", "data")
    return f"data:{_string(found, 'media_type', at)};base64,{_string(found, 'data', at)}"


def _tool_result(block: Json, at: str) -> Json:
    """A failed call's text begins with `Error: `: a tool message has no other place to say so."""
    found = _known(block, at, "type", "tool_use_id", "content", "is_error")
    text = _plain_text(found.get("content", ""), f"{at}.content")
    if _flag(found, "is_error", at):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": _string(found, "tool_use_id", at), "content": text}


def _assistant(content: Any, at: str) -> Json:
    texts, calls = [], []
    for where, kind, block in _blocks(content, at):
        if kind == "text":
            texts.append(_text(block, where))
        elif kind == "tool_use":
            calls.append(_tool_use(block, where))
        elif kind not in _NEVER_SENT:
            raise _unsupported_type(kind, where)
    if not calls:
        return {"role": "assistant", "content": "\n".join(texts)}
    return {"role": "assistant", "content": "\n".join(texts) if texts else None, "tool_calls": calls}


def _tool_use(block: Json, at: str) -> Json:
    found = _known(block, at, "type", "id", "name", "input", "caller")
    _only(found, "caller", {"type": "direct"}, at)
    if not isinstance(found.get("input"), dict):
        raise _malformed(f"{at}.input", "must be an object.")
    try:
        arguments = json.dumps(found["input"], ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{at}.input", "cannot be written as JSON.") from error
    function = {"name": _string(found, "name", at), "arguments": arguments}
    return {"id": _string(found, "id", at), "type": "function", "function": function}


_PARTS: dict[str, Callable[[Json, str], list[Json]]] = {
    "text": _text_parts,
    "image": _image_parts,
    "document": _document_parts,
}
"""What a user's turn may hold beside tool results, by block type."""


# Everything else.


def _tools(found: Json) -> Json:
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(_list(found.get("tools", []), "tools"))]
    asked: Json = {"tools": tools} if tools else {}
    if "tool_choice" in found:
        asked |= _tool_choice(found["tool_choice"], bool(tools))
    return asked


def _tool_choice(value: Any, has_tools: bool) -> Json:
    """OpenAI refuses any choice where there are no tools: one that means nothing then is left out."""
    at = "tool_choice"
    choice = _known(value, at, "type", "name", "disable_parallel_tool_use")
    kind = _string(choice, "type", at)
    asked: Json = {}
    if kind == "tool":
        asked["tool_choice"] = {"type": "function", "function": {"name": _string(choice, "name", at)}}
    elif kind not in _CHOICES:
        raise _malformed(f"{at}.type", "must be 'auto', 'any', 'tool' or 'none'.")
    elif "name" in choice:
        raise _malformed(f"{at}.name", "goes with a choice of type 'tool' only.")
    elif has_tools or kind == "any":
        asked["tool_choice"] = _CHOICES[kind]
    if _flag(choice, "disable_parallel_tool_use", at) and has_tools:
        asked["parallel_tool_calls"] = False
    return asked


def _tool(value: Any, at: str) -> Json:
    if not isinstance(value, dict):
        raise _malformed(at, "must be an object.")
    if value.get("type") not in (None, "custom"):
        raise _unsupported_type(_string(value, "type", at), at)
    also = ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")
    found = _known(value, at, "type", "name", "description", "input_schema", "strict", *also)
    _only(found, "allowed_callers", ["direct"], at)
    _only(found, "defer_loading", False, at)
    _only(found, "input_examples", [], at)
    if not isinstance(found.get("input_schema"), dict):
        raise _malformed(f"{at}.input_schema", "must be an object.")
    function = {"name": _string(found, "name", at), "parameters": found["input_schema"]}
    carried = {field: found[field] for field in ("description", "strict") if field in found}
    return {"type": "function", "function": {**function, **carried}}


def _output(found: Json) -> Json:
    """`output_config` and `thinking`: an effort that is named goes before one that is worked out."""
    asked: Json = {}
    config = _known(found.get("output_config", {}), "output_config", "effort", "format")
    effort = config.get("effort", _thinking_effort(found))
    if effort is not None:
        if effort not in _EFFORTS:
            raise _malformed("output_config.effort", f"must be one of {', '.join(_EFFORTS)}.")
        asked["reasoning_effort"] = effort
    if "format" in config:
        at = "output_config.format"
        output_format = _known(config["format"], at, "type", "schema")
        if output_format.get("type") != "json_schema":
            raise refuse(f"{at}.type", "must be 'json_schema'.")
        if not isinstance(output_format.get("schema"), dict):
            raise _malformed(f"{at}.schema", "must be an object.")
        # Anthropic keeps to the schema whatever happens: OpenAI does so when it is strict. A name is OpenAI's wish.
        schema = {"name": "output", "schema": output_format["schema"], "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked


def _thinking_effort(found: Json) -> str | None:
    """A budget below 4096 tokens is low, below 16384 medium, else high. Adaptive is high: Anthropic's default effort.

    Whether the client is shown what was thought (`display`) is the answer's business.
    """
    if "thinking" not in found:
        return None
    if not isinstance(found["thinking"], dict):
        raise _malformed("thinking", "must be an object.")
    kind = _string(found["thinking"], "type", "thinking")
    if kind not in _THINKING:
        raise _unsupported_type(kind, "thinking")
    thinking = _known(found["thinking"], "thinking", *_THINKING[kind])
    if thinking.get("display", "summarized") not in ("summarized", "omitted"):
        raise _malformed("thinking.display", "must be 'summarized' or 'omitted'.")
    if kind != "enabled":
        return "high" if kind == "adaptive" else None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise _malformed("thinking.budget_tokens", "must be an integer.")
    return "low" if budget < 4096 else "medium" if budget < 16384 else "high"


def _stops(found: Json) -> Json:
    stops = _list(found.get("stop_sequences", []), "stop_sequences")
    for number, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise _malformed(f"stop_sequences[{number}]", "must be a string.")
    if len(stops) > _MOST_STOPS:
        raise refuse("stop_sequences", f"holds more than {_MOST_STOPS}: this model's provider takes no more.")
    return {"stop": stops} if stops else {}


def _caller(found: Json) -> Json:
    """Who asks, and how urgently. OpenAI takes 128 characters of the one, so that a longer name goes as its SHA-256."""
    asked: Json = {}
    metadata = _known(found.get("metadata", {}), "metadata", "user_id")
    if "user_id" in metadata:
        user = _string(metadata, "user_id", "metadata")
        if len(user) > _LONGEST_USER:
            user = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
        asked["safety_identifier"] = user
    if "service_tier" in found:
        tier = _TIERS.get(_string(found, "service_tier", ""))
        if tier is None:
            raise _malformed("service_tier", f"must be one of {', '.join(_TIERS)}.")
        asked["service_tier"] = tier
    return asked


def _streaming(found: Json) -> Json:
    return {"stream": True, "stream_options": {"include_usage": True}} if _flag(found, "stream", "") else {}
