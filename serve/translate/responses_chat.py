"""The client called OpenAI's `/v1/responses`; its provider has `/v1/chat/completions` only.

Shapes: https://platform.openai.com/docs/api-reference/responses and https://platform.openai.com/docs/api-reference/chat.

Of a request, what the chat API can say is carried over and what it cannot is refused; a null is an absent field. These
alone are taken and change nothing:

- `store`: nothing is stored, and the answer says so;
- `reasoning.summary`, `reasoning.generate_summary`, `include: ["reasoning.encrypted_content"]` and `reasoning` items:
  the chat API has no place for reasoning, so none is sent back to the model and none is summed up or encrypted;
- `stream_options.include_obfuscation`: no event is padded;
- `id`, `status` and `phase` of an item, `name` of a call's output, `annotations` and `logprobs` of a text: what an
  earlier answer said of itself;
- `tool_choice` and `parallel_tool_calls` where there are no tools, which the chat API does not allow.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import override

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.fields import inside
from serve.translate.responses_chat_stream import ResponseStream, as_chunk
from serve.translate.translator import StreamTranslator, Translator, refuse

_SAME: dict[str, str] = {
    "model": "a string",
    "temperature": "a number",
    "top_p": "a number",
    "presence_penalty": "a number",
    "frequency_penalty": "a number",
    "metadata": "an object",
    "user": "a string",
    "safety_identifier": "a string",
    "prompt_cache_key": "a string",
    "service_tier": "a string",
}
"""Fields that both APIs have, and what they are."""

_TYPES: dict[str, tuple[type, ...]] = {
    "a string": (str,),
    "a number": (int, float),
    "an integer": (int,),
    "true or false": (bool,),
    "an object": (dict,),
    "an array": (list,),
}

_UNAVAILABLE = "is not available for this model"
_NOTHING_STORED = f"{_UNAVAILABLE}: nothing is stored. Send the whole conversation as 'input'."
_REFUSED: dict[str, str] = {
    "previous_response_id": _NOTHING_STORED,
    "conversation": _NOTHING_STORED,
    "prompt": f"{_UNAVAILABLE}: no prompts are stored.",
    "max_tool_calls": f"{_UNAVAILABLE}: it has no built-in tools to count.",
}
_ONLY: dict[str, tuple[Any, str]] = {
    "background": (False, "may only be false: a response is not kept to be fetched later."),
    "truncation": ("disabled", "may only be 'disabled': no input is left out."),
    "top_logprobs": (0, f"{_UNAVAILABLE}."),
}
"""Fields that may be sent with the value that they have anyway, and why with no other."""

_READ = (
    *("input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"),
    *("text", "reasoning", "include", "store", "stream", "stream_options"),
)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = ("auto", "concise", "detailed")
_VERBOSITIES = ("low", "medium", "high")
_DETAILS = ("auto", "low", "high", "original")


def _random_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex


class ResponsesToChat(Translator):
    """Keeps nothing between requests. `clock` is seconds since the epoch; `new_id` makes an id from its prefix."""

    def __init__(self, clock: Callable[[], float] = time.time, new_id: Callable[[str], str] = _random_id) -> None:
        self._clock = clock
        self._new_id = new_id

    @property
    @override
    def path(self) -> str:
        return "/v1/chat/completions"

    @override
    def request(self, body: Json) -> Json:
        asked = _fields(body, "", {*_SAME, *_REFUSED, *_ONLY, *_READ})
        _refuse_what_chat_has_not(asked)
        chat = _optional(asked, "", _SAME)
        _check_metadata(chat.get("metadata", {}))
        chat["messages"] = _messages(asked)
        if "max_output_tokens" in asked:
            limit = _typed(asked["max_output_tokens"], "an integer", "max_output_tokens")
            chat["max_completion_tokens"] = limit
        return chat | _tools(asked) | _text(asked) | _reasoning(asked) | _stream(asked)

    @override
    def response(self, answer: Json, request: Json) -> Json:
        """As the stream would tell it whose one chunk is the whole answer: so the two can never differ."""
        stream = self._stream(request)
        stream.feed(as_chunk(answer))
        stream.finish()
        return stream.response

    @override
    def stream(self, request: Json) -> StreamTranslator:
        return self._stream(request)

    def _stream(self, request: Json) -> ResponseStream:
        return ResponseStream(request, self._clock, self._new_id)


def _typed(value: Any, kind: str, field: str) -> Any:
    """`value`, if it is one of `_TYPES`."""
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "true or false"):
        raise InvalidRequest(f"'{field}' must be {kind}.", field, "invalid_type")
    return value


def _string(value: Any, field: str) -> str:
    return str(_typed(value, "a string", field))


def _one_of(value: Any, choices: tuple[str, ...], field: str) -> Any:
    if value not in choices:
        raise InvalidRequest(f"'{field}' must be one of {', '.join(choices)}.", field, "invalid_value")
    return value


def _fields(value: Any, at: str, known: Iterable[str]) -> Json:
    """The fields of the object at `at` that are not null; all must be `known`."""
    given = {name: of for name, of in _typed(value, "an object", at).items() if of is not None}
    for name in given:
        if name not in known:
            raise refuse(inside(at, name[:64]), f"{_UNAVAILABLE}.")
    return given


def _required(given: Json, name: str, at: str) -> Any:
    field = inside(at, name)
    if name not in given:
        raise InvalidRequest(f"'{field}' is required.", field, "missing_required_parameter")
    return given[name]


def _text_of(given: Json, name: str, at: str) -> str:
    return _string(_required(given, name, at), f"{at}.{name}")


def _optional(given: Json, at: str, kinds: dict[str, str]) -> Json:
    """Those of the fields in `kinds` that are given, each of its kind."""
    return {name: _typed(given[name], kind, inside(at, name)) for name, kind in kinds.items() if name in given}


def _items(value: Any, at: str) -> list[tuple[str, Any]]:
    """The array at `at`, each item with its own place."""
    return [(f"{at}[{i}]", item) for i, item in enumerate(_typed(value, "an array", at))]


def _type(value: Any, at: str, default: str | None = None) -> str:
    """What the object at `at` says that it is."""
    given = {name: of for name, of in _typed(value, "an object", at).items() if of is not None}
    if default is not None:
        given.setdefault("type", default)
    return _text_of(given, "type", at)


def _wrong_type(kind: str, at: str) -> InvalidRequest:
    return refuse(f"{at}.type", f"is {kind[:64]!r}, which {_UNAVAILABLE}.")


def _refuse_what_chat_has_not(asked: Json) -> None:
    for name, why in _REFUSED.items():
        if name in asked:
            raise refuse(name, why)
    for name, (value, why) in _ONLY.items():
        if asked.get(name, value) != value:
            raise refuse(name, why)
    for at, include in _items(asked.get("include", []), "include"):
        if include != "reasoning.encrypted_content":
            raise refuse(at, f"{_UNAVAILABLE}.")
    _typed(asked.get("store", False), "true or false", "store")


def _check_metadata(metadata: Json) -> None:
    for name, value in metadata.items():
        _string(value, f"metadata.{name}")


def _messages(asked: Json) -> list[Json]:
    messages: list[Json] = []
    if "instructions" in asked:
        messages.append({"role": "system", "content": _string(asked["instructions"], "instructions")})
    given = _required(asked, "input", "")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidRequest("'input' must be a string or an array.", "input", "invalid_type")
    for at, item in _items(given, "input"):
        _add_item(messages, item, at)
    if not messages:
        raise InvalidRequest("'input' must not be empty.", "input", "invalid_value")
    return messages


def _add_item(messages: list[Json], item: Any, at: str) -> None:
    """One item of `input`. What the model said in one turn, text and calls, becomes one message."""
    kind = _type(item, at, "message" if isinstance(item, dict) and "role" in item else None)
    if kind == "message":
        _add_message(messages, item, at)
    elif kind == "function_call":
        _add_call(messages, item, at)
    elif kind == "function_call_output":
        messages.append(_tool_message(item, at))
    elif kind == "item_reference":
        raise refuse(f"{at}.type", f"is 'item_reference', which {_NOTHING_STORED}")
    elif kind != "reasoning":
        raise _wrong_type(kind, at)


def _add_message(messages: list[Json], item: Any, at: str) -> None:
    given = _fields(item, at, ("type", "role", "content", "id", "status", "phase"))
    role = _one_of(_text_of(given, "role", at), ("user", "assistant", "system", "developer"), f"{at}.role")
    content = _required(given, "content", at)
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
    parts = [part(item, place) for place, item in _items(content, at)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _text_part(part: Any, at: str) -> Json:
    kind = _type(part, at)
    if kind not in ("input_text", "output_text"):
        raise _wrong_type(kind, at)
    return {
        "type": "text",
        "text": _text_of(_fields(part, at, ("type", "text", "annotations", "logprobs")), "text", at),
    }


def _user_part(part: Any, at: str) -> Json:
    kind = _type(part, at)
    if kind == "input_image":
        given = _fields(part, at, ("type", "image_url", "detail"))
        image = {"url": _text_of(given, "image_url", at)}
        if "detail" in given:
            image["detail"] = _one_of(given["detail"], _DETAILS, f"{at}.detail")
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        given = _fields(part, at, ("type", "file_data", "filename"))
        file = {"file_data": _text_of(given, "file_data", at)} | _optional(given, at, {"filename": "a string"})
        return {"type": "file", "file": file}
    return _text_part(part, at)


def _add_assistant(messages: list[Json], content: Any, at: str) -> None:
    said: dict[str, list[str]] = {"content": [], "refusal": []}
    for place, part in [] if isinstance(content, str) else _items(content, at):
        if _type(part, place) == "refusal":
            said["refusal"].append(_text_of(_fields(part, place, ("type", "refusal")), "refusal", place))
        else:
            said["content"].append(_text_part(part, place)["text"])
    if isinstance(content, str):
        said["content"].append(content)
    message: Json = {"role": "assistant", "content": None}
    message |= {name: "".join(texts) for name, texts in said.items() if texts}
    if message["content"] is None and "refusal" not in message:
        message["content"] = ""
    before = messages[-1] if messages else {}
    if before.get("tool_calls"):
        # The outputs must follow the calls at once, so what was said after a call goes before it.
        for name in [name for name in said if name in message]:
            before[name] = "\n".join(text for text in (before.get(name), message[name]) if text) or None
    else:
        messages.append(message)


def _add_call(messages: list[Json], item: Any, at: str) -> None:
    given = _fields(item, at, ("type", "call_id", "name", "arguments", "id", "status"))
    function = {name: _text_of(given, name, at) for name in ("name", "arguments")}
    call = {"id": _text_of(given, "call_id", at), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _tool_message(item: Any, at: str) -> Json:
    given = _fields(item, at, ("type", "call_id", "output", "id", "status", "name"))
    output = _content(_required(given, "output", at), f"{at}.output", _text_part)
    return {"role": "tool", "tool_call_id": _text_of(given, "call_id", at), "content": output}


def _tools(asked: Json) -> Json:
    tools = [_tool(tool, at) for at, tool in _items(asked.get("tools", []), "tools")]
    said: Json = {"tools": tools} if tools else {}
    choice = _tool_choice(asked.get("tool_choice", "auto"))
    if "tool_choice" in asked and (tools or choice not in ("auto", "none")):
        said["tool_choice"] = choice
    if "parallel_tool_calls" in asked:
        parallel = _typed(asked["parallel_tool_calls"], "true or false", "parallel_tool_calls")
        said |= {"parallel_tool_calls": parallel} if tools else {}
    return said


def _tool(tool: Any, at: str) -> Json:
    """Unlike in the Responses API, a function that does not say `strict` is not: its schema may not allow it."""
    kind = _type(tool, at)
    if kind != "function":
        raise _wrong_type(kind, at)
    given = _fields(tool, at, ("type", "name", "description", "parameters", "strict"))
    function: Json = {"name": _text_of(given, "name", at)}
    function |= _optional(given, at, {"description": "a string", "parameters": "an object", "strict": "true or false"})
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> str | Json:
    if isinstance(choice, str):
        return str(_one_of(choice, ("auto", "none", "required"), "tool_choice"))
    kind = _type(choice, "tool_choice")
    if kind != "function":
        raise _wrong_type(kind, "tool_choice")
    name = _text_of(_fields(choice, "tool_choice", ("type", "name")), "name", "tool_choice")
    return {"type": "function", "function": {"name": name}}


def _text(asked: Json) -> Json:
    given = _fields(asked.get("text", {}), "text", ("format", "verbosity"))
    said: Json = {}
    if "verbosity" in given:
        said["verbosity"] = _one_of(given["verbosity"], _VERBOSITIES, "text.verbosity")
    kind = _type(given.get("format", {}), "text.format", "text")
    if kind == "json_schema":
        said["response_format"] = {"type": kind, "json_schema": _schema(given["format"])}
    elif kind == "json_object":
        _fields(given["format"], "text.format", ("type",))
        said["response_format"] = {"type": kind}
    elif kind != "text":
        raise _wrong_type(kind, "text.format")
    return said


def _schema(format_: Any) -> Json:
    at = "text.format"
    given = _fields(format_, at, ("type", "name", "schema", "description", "strict"))
    schema = {
        "name": _text_of(given, "name", at),
        "schema": _typed(_required(given, "schema", at), "an object", f"{at}.schema"),
    }
    return schema | _optional(given, at, {"description": "a string", "strict": "true or false"})


def _reasoning(asked: Json) -> Json:
    given = _fields(asked.get("reasoning", {}), "reasoning", ("effort", "summary", "generate_summary"))
    for name in ("summary", "generate_summary"):
        _one_of(given.get(name, "auto"), _SUMMARIES, f"reasoning.{name}")
    return {"reasoning_effort": _one_of(given["effort"], _EFFORTS, "reasoning.effort")} if "effort" in given else {}


def _stream(asked: Json) -> Json:
    _fields(asked.get("stream_options", {}), "stream_options", ("include_obfuscation",))
    if not _typed(asked.get("stream", False), "true or false", "stream"):
        return {}
    return {"stream": True, "stream_options": {"include_usage": True}}
