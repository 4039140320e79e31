"""The `input` of a request for `/v1/responses`, as the messages of OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.responses_chat_fields import (
    NOTHING_STORED,
    fields,
    items,
    one_of,
    optional,
    required,
    string,
    text_of,
    type_of,
    wrong_type,
)
from serve.translate.sealed_thinking import unseal
from serve.translate.translator import refuse

_DETAILS = ("auto", "low", "high", "original")


def conversation(asked: Json, *, thinking: bool) -> list[Json]:
    """The chat API's messages. `thinking_blocks` are among them only with `thinking`."""
    return _read(asked, thinking=thinking)[0]


def places(asked: Json, *, thinking: bool) -> dict[str, str]:
    """Where each message of the `conversation`, and each call in one, comes from: `messages[1]` from `input[0]`."""
    messages, origins = _read(asked, thinking=thinking)
    found: dict[str, str] = {}
    for i, message in enumerate(messages):
        found[f"messages[{i}]"] = origins[id(message)]
        for j, call in enumerate(message.get("tool_calls", ())):
            found[f"messages[{i}].tool_calls[{j}]"] = origins[id(call)]
    return found


def _read(asked: Json, *, thinking: bool) -> tuple[list[Json], dict[int, str]]:
    """The messages, and by the `id` of a message or of a call in one the place of the item that began it."""
    messages: list[Json] = []
    origins: dict[int, str] = {}
    if "instructions" in asked:
        messages.append({"role": "system", "content": string(asked["instructions"], "instructions")})
        origins[id(messages[-1])] = "instructions"
    given = required(asked, "input", "")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
        origins[id(messages[-1])] = "input"
        return messages, origins
    if not isinstance(given, list):
        raise InvalidRequest("'input' must be a string or an array.", "input", "invalid_type")
    for at, item in items(given, "input"):
        before = len(messages)
        if thinking and isinstance(item, dict) and item.get("type") == "reasoning":
            _add_thoughts(messages, unseal(item.get("encrypted_content"), f"{at}.encrypted_content"))
        else:
            _add_item(messages, item, at)
        for message in messages[before:]:
            origins[id(message)] = at
        if messages and (calls := messages[-1].get("tool_calls")):
            origins.setdefault(id(calls[-1]), at)
    # Thinking of which nothing came: no provider takes an assistant's turn that says nothing.
    messages = [message for message in messages if not _only_thinks(message)]
    if not messages:
        raise InvalidRequest("'input' must not be empty.", "input", "invalid_value")
    return messages, origins


def _add_item(messages: list[Json], item: Any, at: str) -> None:
    """One item of `input`. What the model said in one turn, text and calls, becomes one message."""
    kind = type_of(item, at, "message" if isinstance(item, dict) and "role" in item else None)
    if kind == "message":
        _add_message(messages, item, at)
    elif kind == "function_call":
        _add_call(messages, item, at)
    elif kind == "function_call_output":
        messages.append(_tool_message(item, at))
    elif kind == "item_reference":
        raise refuse(f"{at}.type", f"is 'item_reference', which {NOTHING_STORED}")
    elif kind != "reasoning":
        raise wrong_type(kind, at)


def _add_thoughts(messages: list[Json], thoughts: list[Json]) -> None:
    """Thinking stands before what came of it, and before the calls of its turn even if it came after them.

    After a text it begins a message of its own, so that the order stays what it was.
    """
    if not thoughts:
        return
    before = messages[-1] if messages else {}
    if not before.get("tool_calls") and not _only_thinks(before):
        before = {"role": "assistant", "content": None}
        messages.append(before)
    before.setdefault("thinking_blocks", []).extend(thoughts)


def _only_thinks(message: Json) -> bool:
    said = ("content", "refusal", "tool_calls")
    return "thinking_blocks" in message and not any(message.get(name) for name in said)


def _add_message(messages: list[Json], item: Any, at: str) -> None:
    given = fields(item, at, ("type", "role", "content", "id", "status", "phase"))
    role = one_of(text_of(given, "role", at), ("user", "assistant", "system", "developer"), f"{at}.role")
    content = required(given, "content", at)
    if role == "assistant":
        _add_assistant(messages, content, f"{at}.content")
    elif role == "user":
        messages.append({"role": "user", "content": _content(content, f"{at}.content", _user_part)})
    else:
        messages.append({"role": "system", "content": _content(content, f"{at}.content", _text_part)})


def _content(content: Any, at: str, part: Callable[[Any, str], Json]) -> str | list[Json]:
    """A string, or parts; a single text goes as a string, which every provider reads."""
    if isinstance(content, str):
        return content
    parts = [part(item, place) for place, item in items(content, at)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _text_part(part: Any, at: str) -> Json:
    kind = type_of(part, at)
    if kind not in ("input_text", "output_text"):
        raise wrong_type(kind, at)
    return {
        "type": "text",
        "text": text_of(fields(part, at, ("type", "text", "annotations", "logprobs")), "text", at),
    }


def _user_part(part: Any, at: str) -> Json:
    kind = type_of(part, at)
    if kind == "input_image":
        given = fields(part, at, ("type", "image_url", "detail"))
        image = {"url": text_of(given, "image_url", at)}
        if "detail" in given:
            image["detail"] = one_of(given["detail"], _DETAILS, f"{at}.detail")
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        given = fields(part, at, ("type", "file_data", "filename"))
        file = {"file_data": text_of(given, "file_data", at)} | optional(given, at, {"filename": "a string"})
        return {"type": "file", "file": file}
    return _text_part(part, at)


def _add_assistant(messages: list[Json], content: Any, at: str) -> None:
    said: dict[str, list[str]] = {"content": [], "refusal": []}
    for place, part in [] if isinstance(content, str) else items(content, at):
        if type_of(part, place) == "refusal":
            said["refusal"].append(text_of(fields(part, place, ("type", "refusal")), "refusal", place))
        else:
            said["content"].append(_text_part(part, place)["text"])
    if isinstance(content, str):
        said["content"].append(content)
    message: Json = {"role": "assistant", "content": None}
    message |= {name: "".join(texts) for name, texts in said.items() if texts}
    if message["content"] is None and "refusal" not in message:
        message["content"] = ""
    before = messages[-1] if messages else {}
    if before.get("tool_calls") or _only_thinks(before):
        # The outputs must follow the calls at once, so what was said after a call goes before it.
        for name in [name for name in said if name in message]:
            before[name] = "\n".join(text for text in (before.get(name), message[name]) if text) or None
    else:
        messages.append(message)


def _add_call(messages: list[Json], item: Any, at: str) -> None:
    given = fields(item, at, ("type", "call_id", "name", "arguments", "id", "status"))
    function = {name: text_of(given, name, at) for name in ("name", "arguments")}
    call = {"id": text_of(given, "call_id", at), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _tool_message(item: Any, at: str) -> Json:
    given = fields(item, at, ("type", "call_id", "output", "id", "status", "name"))
    output = _content(required(given, "output", at), f"{at}.output", _text_part)
    return {"role": "tool", "tool_call_id": text_of(given, "call_id", at), "content": output}
