"""The conversation of a request for Anthropic's `/v1/messages`, as OpenAI's `/v1/chat/completions` has it.

The text blocks of a turn become one string with a newline between them: every server of this dialect takes strings, not
every one takes lists of text parts. Only beside images and files do they stay parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from serve.schemas import Json
from serve.translate.anthropic_openai_fields import UNSUPPORTED, array, known, only_as, string, unsupported_type
from serve.translate.fields import flag, malformed
from serve.translate.translator import refuse

_NEVER_SENT = ("thinking", "redacted_thinking")


def conversation(found: Json) -> list[Json]:
    """OpenAI's `messages`, of which Anthropic's `system` is the first."""
    return [*_system(found), *_messages(found)]


def _system(found: Json) -> list[Json]:
    text = _plain_text(found.get("system", ""), "system")
    return [{"role": "system", "content": text}] if text else []


def _messages(found: Json) -> list[Json]:
    messages: list[Json] = []
    turns = array(found.get("messages"), "messages")
    for number, value in enumerate(turns):
        at = f"messages[{number}]"
        turn = known(value, at, "role", "content")
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
            raise malformed(f"{at}.role", "must be 'user', 'assistant' or 'system'.")
    return messages


def _blocks(content: Any, at: str) -> Iterator[tuple[str, str, Json]]:
    """Each block's place, type and value; a string is one text block."""
    if isinstance(content, str):
        yield at, "text", {"type": "text", "text": content}
        return
    if not isinstance(content, list):
        raise malformed(at, "must be a string or a list of content blocks.")
    for number, block in enumerate(content):
        where = f"{at}[{number}]"
        if not isinstance(block, dict):
            raise malformed(where, "must be an object.")
        yield where, string(block, "type", where), block


def _text(block: Json, at: str) -> str:
    found = known(block, at, "type", "text", "citations")
    only_as(found, "citations", [], at)
    return string(found, "text", at)


def _plain_text(content: Any, at: str) -> str:
    """Of what may hold nothing else."""
    texts = []
    for where, kind, block in _blocks(content, at):
        if kind != "text":
            raise unsupported_type(kind, where)
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
            raise unsupported_type(kind, where)
    if all(part["type"] == "text" for part in parts):
        if parts or not messages:
            messages.append({"role": "user", "content": "\n".join(part["text"] for part in parts)})
    else:
        messages.append({"role": "user", "content": parts})
    return messages


def _text_parts(block: Json, at: str) -> list[Json]:
    return [{"type": "text", "text": _text(block, at)}]


def _image_parts(block: Json, at: str) -> list[Json]:
    found = known(block, at, "type", "source", "transformations")
    only_as(found, "transformations", {}, at)
    kind, source, where = _source(found, at)
    if kind == "base64":
        url = _data_url(source, where)
    elif kind == "url":
        url = string(known(source, where, "type", "url"), "url", where)
    else:
        raise unsupported_type(kind, where)
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document_parts(block: Json, at: str) -> list[Json]:
    """Text comes after its title and context; a PDF has its title as the file's name and its context before it."""
    found = known(block, at, "type", "source", "title", "context", "citations")
    if flag(known(found.get("citations", {}), f"{at}.citations", "enabled"), "enabled", f"{at}.citations"):
        raise refuse(f"{at}.citations", UNSUPPORTED)
    kind, source, where = _source(found, at)
    title, context = (string({"": found.get(field, "")}, "", f"{at}.{field}") for field in ("title", "context"))
    if kind == "text":
        plain = known(source, where, "type", "media_type", "data")
        only_as(plain, "media_type", "text/plain", where)
        data = string(plain, "data", where)
        return [{"type": "text", "text": "\n".join(text for text in (title, context, data) if text)}]
    if kind != "base64":
        raise unsupported_type(kind, where)
    if source.get("media_type") != "application/pdf":
        raise refuse(f"{where}.media_type", "must be 'application/pdf'.")
    file = {"filename": title or "document.pdf", "file_data": _data_url(source, where)}
    before = [{"type": "text", "text": context}] if context else []
    return [*before, {"type": "file", "file": file}]


def _source(found: Json, at: str) -> tuple[str, Json, str]:
    where = f"{at}.source"
    source = found.get("source")
    if not isinstance(source, dict):
        raise malformed(where, "must be an object.")
    return string(source, "type", where), source, where


def _data_url(source: Json, at: str) -> str:
    found = known(source, at, "type", "media_type", "data")
    return f"data:{string(found, 'media_type', at)};base64,{string(found, 'data', at)}"


def _tool_result(block: Json, at: str) -> Json:
    """A failed call's text begins with `Error: `: a tool message has no other place to say so."""
    found = known(block, at, "type", "tool_use_id", "content", "is_error")
    text = _plain_text(found.get("content", ""), f"{at}.content")
    if flag(found, "is_error", at):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": string(found, "tool_use_id", at), "content": text}


def _assistant(content: Any, at: str) -> Json:
    texts, calls = [], []
    for where, kind, block in _blocks(content, at):
        if kind == "text":
            texts.append(_text(block, where))
        elif kind == "tool_use":
            calls.append(_tool_use(block, where))
        elif kind not in _NEVER_SENT:
            raise unsupported_type(kind, where)
    if not calls:
        return {"role": "assistant", "content": "\n".join(texts)}
    return {"role": "assistant", "content": "\n".join(texts) if texts else None, "tool_calls": calls}


def _tool_use(block: Json, at: str) -> Json:
    found = known(block, at, "type", "id", "name", "input", "caller")
    only_as(found, "caller", {"type": "direct"}, at)
    if not isinstance(found.get("input"), dict):
        raise malformed(f"{at}.input", "must be an object.")
    try:
        arguments = json.dumps(found["input"], ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{at}.input", "cannot be written as JSON.") from error
    function = {"name": string(found, "name", at), "arguments": arguments}
    return {"id": string(found, "id", at), "type": "function", "function": function}


_PARTS: dict[str, Callable[[Json, str], list[Json]]] = {
    "text": _text_parts,
    "image": _image_parts,
    "document": _document_parts,
}
"""What a user's turn may hold beside tool results, by block type."""
