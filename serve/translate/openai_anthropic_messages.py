"""The conversation of a request for OpenAI's `/v1/chat/completions`, as Anthropic's `/v1/messages` has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from serve.schemas import Json
from serve.translate.fields import malformed
from serve.translate.openai_anthropic_fields import NOT_CARRIED, array, json_object, only, string
from serve.translate.translator import refuse

_MESSAGE_FIELDS = frozenset({"role", "content", "name"})
_ASSISTANT_FIELDS = _MESSAGE_FIELDS | {
    "annotations", "reasoning", "reasoning_content", "refusal", "thinking_blocks", "tool_calls"
}  # fmt: skip
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def conversation(messages: list[Any]) -> tuple[list[Json], list[Json]]:
    """Anthropic's `system` and `messages`.

    System and developer messages go to `system` in their order, wherever they stand, as Anthropic's own OpenAI layer
    has it (https://docs.claude.com/en/api/openai-sdk). Turns of one role in a row become one, in which the results of
    tools come first, as Anthropic demands. A message without content says nothing and goes.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for index, value in enumerate(messages):
        field = f"messages[{index}]"
        message = json_object(value, field)
        role = string(message.get("role"), f"{field}.role")
        if role in ("system", "developer"):
            only(message, field, _MESSAGE_FIELDS)
            system += _blocks(message, field, _TEXT_ONLY)
            continue
        if role not in _TURNS:
            raise refuse(f"{field}.role", NOT_CARRIED)
        role, read = _TURNS[role]
        if not (blocks := read(message, field)):
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise malformed("messages", "must hold a message of the user or the assistant that says something.")
    for turn in turns:
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return system, turns


def _user(message: Json, field: str) -> list[Json]:
    only(message, field, _MESSAGE_FIELDS)
    return _blocks(message, field, _USER_PARTS)


def _assistant(message: Json, field: str) -> list[Json]:
    """Anthropic wants thinking before what came of it, and calls at the end."""
    only(message, field, _ASSISTANT_FIELDS)
    blocks = _thinking_blocks(message.get("thinking_blocks"), f"{field}.thinking_blocks")
    if message.get("content") is not None:
        blocks += _blocks(message, field, _ASSISTANT_PARTS)
    if message.get("refusal") is not None:
        blocks += _text(message["refusal"], f"{field}.refusal")
    calls = message.get("tool_calls")
    if calls is not None:
        at = f"{field}.tool_calls"
        blocks += [_tool_use(call, f"{at}[{index}]") for index, call in enumerate(array(calls, at))]
    return blocks


def _tool(message: Json, field: str) -> list[Json]:
    only(message, field, _MESSAGE_FIELDS | {"tool_call_id"})
    result = {"type": "tool_result", "tool_use_id": string(message.get("tool_call_id"), f"{field}.tool_call_id")}
    content = _blocks(message, field, _TEXT_ONLY)
    return [{**result, "content": content} if content else result]


def _thinking_blocks(value: Any, field: str) -> list[Json]:
    """Thinking of an earlier answer, as `openai_anthropic_stream` wrote it.

    Without its signature Anthropic would refuse it: such a block goes.
    """
    blocks: list[Json] = []
    for index, entry in enumerate(array(value, field) if value is not None else []):
        at = f"{field}[{index}]"
        block = json_object(entry, at)
        kind = block.get("type")
        if kind == "redacted_thinking":
            only(block, at, {"type", "data", "index"})
            blocks.append({"type": kind, "data": string(block.get("data"), f"{at}.data")})
        elif kind == "thinking":
            only(block, at, {"type", "thinking", "signature", "index"})
            thinking = string(block.get("thinking"), f"{at}.thinking")
            if signature := string(block.get("signature") or "", f"{at}.signature"):
                blocks.append({"type": kind, "thinking": thinking, "signature": signature})
        else:
            raise refuse(f"{at}.type", "must be 'thinking' or 'redacted_thinking'.")
    return blocks


def _tool_use(value: Any, field: str) -> Json:
    call = json_object(value, field)
    if call.get("type", "function") != "function":
        raise refuse(f"{field}.type", "must be 'function': this model's provider has no other calls.")
    only(call, field, {"id", "type", "function", "index"})
    function = json_object(call.get("function"), f"{field}.function")
    only(function, f"{field}.function", {"name", "arguments"})
    return {
        "type": "tool_use",
        "id": string(call.get("id"), f"{field}.id"),
        "name": string(function.get("name"), f"{field}.function.name"),
        "input": _arguments(function.get("arguments"), f"{field}.function.arguments"),
    }


def _arguments(value: Any, field: str) -> Json:
    """Of a call without any, OpenAI's clients may have made an empty string."""
    try:
        parsed = json.loads(string(value, field) or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(field, "must be valid JSON.") from error
    if not isinstance(parsed, dict):
        raise malformed(field, "must be a JSON object: this model's provider takes no other arguments.")
    return parsed


def _no_constant(name: str) -> NoReturn:
    """Python would read NaN and Infinity, which JSON does not have."""
    raise ValueError(name)


ReadPart: TypeAlias = Callable[[Json, str], list[Json]]
"""Takes a content part and its field; gives Anthropic's blocks for it: one, or none where it is empty."""


def _blocks(message: Json, field: str, parts: dict[str, ReadPart]) -> list[Json]:
    """The content of a message, whose parts may be of the types in `parts`."""
    field = f"{field}.content"
    content = message.get("content")
    if isinstance(content, str):
        return _text(content, field)
    if not isinstance(content, list):
        raise malformed(field, "must be a string or an array of content parts.")
    blocks: list[Json] = []
    for index, value in enumerate(content):
        at = f"{field}[{index}]"
        part = json_object(value, at)
        kind = string(part.get("type"), f"{at}.type")
        if kind not in parts:
            raise refuse(f"{at}.type", NOT_CARRIED)
        only(part, at, {"type", kind, "prompt_cache_breakpoint"})
        blocks += parts[kind](part, at)
    return blocks


def _text(value: Any, field: str) -> list[Json]:
    """Anthropic refuses a block of no text."""
    text = string(value, field)
    return [{"type": "text", "text": text}] if text else []


def _text_part(part: Json, field: str) -> list[Json]:
    return _text(part.get("text"), f"{field}.text")


def _refusal_part(part: Json, field: str) -> list[Json]:
    return _text(part.get("refusal"), f"{field}.refusal")


def _image_part(part: Json, field: str) -> list[Json]:
    image = json_object(part.get("image_url"), f"{field}.image_url")
    only(image, f"{field}.image_url", {"url", "detail"})
    url = string(image.get("url"), f"{field}.image_url.url")
    if url[:8].lower().startswith(("https://", "http://")):
        return [{"type": "image", "source": {"type": "url", "url": url}}]
    media_type, data = _data_url(url)
    if media_type not in _IMAGE_TYPES:
        raise refuse(f"{field}.image_url.url", "must be an http(s) URL, or a base64 one of a JPEG, PNG, GIF or WebP.")
    return [{"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}]


def _file_part(part: Json, field: str) -> list[Json]:
    file = json_object(part.get("file"), f"{field}.file")
    only(file, f"{field}.file", {"file_data", "filename"})
    media_type, data = _data_url(string(file.get("file_data"), f"{field}.file.file_data"))
    if media_type != "application/pdf":
        raise refuse(f"{field}.file.file_data", "must be a base64 data URL of a PDF.")
    document = {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}}
    name = file.get("filename")
    return [document if name is None else {**document, "title": string(name, f"{field}.file.filename")}]


def _data_url(url: str) -> tuple[str, str]:
    """The media type and the data of `data:image/png;base64,…`; both empty for anything else (RFC 2397)."""
    head, _, data = url.partition(",")
    scheme, _, rest = head.partition(":")
    media_type, *parameters = rest.split(";")
    if scheme.lower() != "data" or not data or [parameter.lower() for parameter in parameters] != ["base64"]:
        return "", ""
    return media_type.lower(), data


_TEXT_ONLY: dict[str, ReadPart] = {"text": _text_part}
_ASSISTANT_PARTS: dict[str, ReadPart] = {"text": _text_part, "refusal": _refusal_part}
_USER_PARTS: dict[str, ReadPart] = {"text": _text_part, "image_url": _image_part, "file": _file_part}
_TURNS: dict[str, tuple[str, Callable[[Json, str], list[Json]]]] = {
    "user": ("user", _user),
    "assistant": ("assistant", _assistant),
    "tool": ("user", _tool),
}
"""Anthropic's role for each of OpenAI's, and what reads such a message."""
