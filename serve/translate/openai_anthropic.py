"""OpenAI's `/v1/chat/completions` for the client, Anthropic's `/v1/messages` at the provider.

Sources: https://platform.openai.com/docs/api-reference/chat/create and https://docs.claude.com/en/api/messages. This
file carries the request over, `openai_anthropic_stream` the answer.

What has no counterpart and changes the answer is refused by name; a value that asks for nothing (null, `n` of 1) is
not. Nothing is dropped but what `IGNORED` lists. Where a model takes less than Anthropic's schema does (no
`temperature`, no `thinking`), its provider refuses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeAlias

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.openai_anthropic_stream import Chunks, completion
from serve.translate.translator import StreamTranslator, refuse

IGNORED: dict[str, str] = {
    "metadata": "labels for OpenAI's dashboard",
    "prompt_cache_key": "where OpenAI looks for a cached prompt",
    "prompt_cache_options": "how OpenAI caches prompts",
    "prompt_cache_retention": "how long OpenAI keeps cached prompts",
    "stream_options.include_obfuscation": "padding of events",
    "service_tier": "any but `default`: Anthropic picks the tier by itself",
    "response_format.json_schema.name": "a label",
    "response_format.json_schema.strict": "Anthropic always keeps to the schema",
    "messages[].name": "Anthropic tells no participants of one role apart",
    "messages[].annotations": "what an earlier answer cited",
    "messages[].reasoning": "thinking without its signature, as vLLM says it: no proof that the model thought it",
    "messages[].reasoning_content": "the same; `thinking_blocks` are carried",
    "messages[].tool_calls[].index": "left over from a stream",
    "messages[].content[].image_url.detail": "Anthropic picks the resolution by itself",
    "messages[].content[].prompt_cache_breakpoint": "where OpenAI cuts a cached prompt",
}
"""What a client may send and Anthropic never hears of, with what it was for: it changes no answer, or is a hint."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "seed": (),
    "store": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields without a counterpart, each with the values that ask for nothing, beside null."""

_CARRIED = frozenset(
    {
        "max_completion_tokens", "max_tokens", "messages", "model", "parallel_tool_calls", "reasoning_effort",
        "response_format", "safety_identifier", "service_tier", "stop", "stream", "stream_options", "temperature",
        "tool_choice", "tools", "top_p", "user",
    }
)  # fmt: skip
_KNOWN = _CARRIED | _NEUTRAL.keys() | {field for field in IGNORED if field.isidentifier()}
_MESSAGE_FIELDS = frozenset({"role", "content", "name"})
_ASSISTANT_FIELDS = _MESSAGE_FIELDS | {
    "annotations", "reasoning", "reasoning_content", "refusal", "thinking_blocks", "tool_calls"
}  # fmt: skip
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_EFFORTS = {"minimal": "low", **{effort: effort for effort in ("low", "medium", "high", "xhigh", "max")}}
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_TOOL_CHOICES = {"none": "none", "auto": "auto", "required": "any"}
_NOT_CARRIED = "cannot be carried over to this model's provider."
_LONGEST_FIELD = 100


class ChatToMessages:
    """The `Translator` of the pair. Stateless.

    `default_max_tokens` is for requests that set no limit of their own: Anthropic needs one. `clock` gives the seconds
    since the epoch for `created`.
    """

    path = "/v1/messages"

    def __init__(self, default_max_tokens: int = 4096, clock: Callable[[], float] = time.time) -> None:
        self._default_max_tokens = default_max_tokens
        self._clock = clock

    def request(self, body: Json) -> Json:
        _check_fields(body)
        system, messages = _conversation(_array(body.get("messages"), "messages"))
        tools = _tools(body.get("tools"))
        thinking, effort = _reasoning(body.get("reasoning_effort"))
        output = effort | _output_format(body.get("response_format"))
        fields = {
            "model": _string(body.get("model"), "model"),
            "max_tokens": self._max_tokens(body),
            "system": system or None,
            "messages": messages,
            "tools": tools or None,
            "tool_choice": _tool_choice(body, tools),
            "stop_sequences": _stop_sequences(body.get("stop")),
            "temperature": _share(body, "temperature"),
            "top_p": _share(body, "top_p"),
            "metadata": _metadata(body),
            "service_tier": _service_tier(body.get("service_tier")),
            "stream": _flag(body, "stream") or None,
            "thinking": thinking,
            "output_config": output or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def response(self, answer: Json, request: Json) -> Json:
        return completion(answer, int(self._clock()))

    def stream(self, request: Json) -> StreamTranslator:
        options = request.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        return Chunks(int(self._clock()), include_usage=include_usage)

    def _max_tokens(self, body: Json) -> int:
        for name in ("max_completion_tokens", "max_tokens"):
            limit = body.get(name)
            if limit is None:
                continue
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                _wrong(name, "must be a positive integer.")
            return limit
        return self._default_max_tokens


def _check_fields(body: Json) -> None:
    for name, neutral in _NEUTRAL.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise refuse(name, _NOT_CARRIED)
    _only(body, "", _KNOWN)
    options = body.get("stream_options")
    if options is not None:
        options = _object(options, "stream_options")
        _only(options, "stream_options", {"include_obfuscation", "include_usage"})
        _flag(options, "include_usage", "stream_options")


def _conversation(messages: list[Any]) -> tuple[list[Json], list[Json]]:
    """Anthropic's `system` and `messages`.

    System and developer messages go to `system` in their order, wherever they stand, as Anthropic's own OpenAI layer
    has it (https://docs.claude.com/en/api/openai-sdk). Turns of one role in a row become one, in which the results of
    tools come first, as Anthropic demands. A message without content says nothing and goes.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for index, value in enumerate(messages):
        field = f"messages[{index}]"
        message = _object(value, field)
        role = _string(message.get("role"), f"{field}.role")
        if role in ("system", "developer"):
            _only(message, field, _MESSAGE_FIELDS)
            system += _blocks(message, field, _TEXT_ONLY)
            continue
        if role not in _TURNS:
            raise refuse(f"{field}.role", _NOT_CARRIED)
        role, read = _TURNS[role]
        if not (blocks := read(message, field)):
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        _wrong("messages", "must hold a message of the user or the assistant that says something.")
    for turn in turns:
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return system, turns


def _user(message: Json, field: str) -> list[Json]:
    _only(message, field, _MESSAGE_FIELDS)
    return _blocks(message, field, _USER_PARTS)


def _assistant(message: Json, field: str) -> list[Json]:
    """Anthropic wants thinking before what came of it, and calls at the end."""
    _only(message, field, _ASSISTANT_FIELDS)
    blocks = _thinking_blocks(message.get("thinking_blocks"), f"{field}.thinking_blocks")
    if message.get("content") is not None:
        blocks += _blocks(message, field, _ASSISTANT_PARTS)
    if message.get("refusal") is not None:
        blocks += _text(message["refusal"], f"{field}.refusal")
    calls = message.get("tool_calls")
    if calls is not None:
        at = f"{field}.tool_calls"
        blocks += [_tool_use(call, f"{at}[{index}]") for index, call in enumerate(_array(calls, at))]
    return blocks


def _tool(message: Json, field: str) -> list[Json]:
    _only(message, field, _MESSAGE_FIELDS | {"tool_call_id"})
    result = {"type": "tool_result", "tool_use_id": _string(message.get("tool_call_id"), f"{field}.tool_call_id")}
    content = _blocks(message, field, _TEXT_ONLY)
    return [{**result, "content": content} if content else result]


def _thinking_blocks(value: Any, field: str) -> list[Json]:
    """Thinking of an earlier answer, as `openai_anthropic_stream` wrote it.

    Without its signature Anthropic would refuse it: such a block goes.
    """
    blocks: list[Json] = []
    for index, entry in enumerate(_array(value, field) if value is not None else []):
        at = f"{field}[{index}]"
        block = _object(entry, at)
        kind = block.get("type")
        if kind == "redacted_thinking":
            _only(block, at, {"type", "data", "index"})
            blocks.append({"type": kind, "data": _string(block.get("data"), f"{at}.data")})
        elif kind == "thinking":
            _only(block, at, {"type", "thinking", "signature", "index"})
            thinking = _string(block.get("thinking"), f"{at}.thinking")
            if signature := _string(block.get("signature") or "", f"{at}.signature"):
                blocks.append({"type": kind, "thinking": thinking, "signature": signature})
        else:
            raise refuse(f"{at}.type", "must be 'thinking' or 'redacted_thinking'.")
    return blocks


def _tool_use(value: Any, field: str) -> Json:
    call = _object(value, field)
    if call.get("type", "function") != "function":
        raise refuse(f"{field}.type", "must be 'function': this model's provider has no other calls.")
    _only(call, field, {"id", "type", "function", "index"})
    function = _object(call.get("function"), f"{field}.function")
    _only(function, f"{field}.function", {"name", "arguments"})
    return {
        "type": "tool_use",
        "id": _string(call.get("id"), f"{field}.id"),
        "name": _string(function.get("name"), f"{field}.function.name"),
        "input": _arguments(function.get("arguments"), f"{field}.function.arguments"),
    }


def _arguments(value: Any, field: str) -> Json:
    """Of a call without any, OpenAI's clients may have made an empty string."""
    try:
        parsed = json.loads(_string(value, field) or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _wrong(field, "must be valid JSON.")
    if not isinstance(parsed, dict):
        _wrong(field, "must be a JSON object: this model's provider takes no other arguments.")
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
        _wrong(field, "must be a string or an array of content parts.")
    blocks: list[Json] = []
    for index, value in enumerate(content):
        at = f"{field}[{index}]"
        part = _object(value, at)
        kind = _string(part.get("type"), f"{at}.type")
        if kind not in parts:
            raise refuse(f"{at}.type", _NOT_CARRIED)
        _only(part, at, {"type", kind, "prompt_cache_breakpoint"})
        blocks += parts[kind](part, at)
    return blocks


def _text(value: Any, field: str) -> list[Json]:
    """Anthropic refuses a block of no text."""
    text = _string(value, field)
    return [{"type": "text", "text": text}] if text else []


def _text_part(part: Json, field: str) -> list[Json]:
    return _text(part.get("text"), f"{field}.text")


def _refusal_part(part: Json, field: str) -> list[Json]:
    return _text(part.get("refusal"), f"{field}.refusal")


def _image_part(part: Json, field: str) -> list[Json]:
    image = _object(part.get("image_url"), f"{field}.image_url")
    _only(image, f"{field}.image_url", {"url", "detail"})
    url = _string(image.get("url"), f"{field}.image_url.url")
    if url[:8].lower().startswith(("https://", "http://")):
        return [{"type": "image", "source": {"type": "url", "url": url}}]
    media_type, data = _data_url(url)
    if media_type not in _IMAGE_TYPES:
        raise refuse(f"{field}.image_url.url", "must be an http(s) URL, or a base64 one of a JPEG, PNG, GIF or WebP.")
    return [{"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}]


def _file_part(part: Json, field: str) -> list[Json]:
    file = _object(part.get("file"), f"{field}.file")
    _only(file, f"{field}.file", {"file_data", "filename"})
    media_type, data = _data_url(_string(file.get("file_data"), f"{field}.file.file_data"))
    if media_type != "application/pdf":
        raise refuse(f"{field}.file.file_data", "must be a base64 data URL of a PDF.")
    document = {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}}
    name = file.get("filename")
    return [document if name is None else {**document, "title": _string(name, f"{field}.file.filename")}]


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


def _tools(value: Any) -> list[Json]:
    return [] if value is None else [_tool_param(tool, f"tools[{i}]") for i, tool in enumerate(_array(value, "tools"))]


def _tool_param(value: Any, field: str) -> Json:
    tool = _object(value, field)
    if tool.get("type") != "function":
        raise refuse(f"{field}.type", "must be 'function': this model's provider has no other tools.")
    _only(tool, field, {"type", "function"})
    field = f"{field}.function"
    function = _object(tool.get("function"), field)
    _only(function, field, {"name", "description", "parameters", "strict"})
    parameters = function.get("parameters")
    schema = {} if parameters is None else _object(parameters, f"{field}.parameters")
    param: Json = {
        "name": _string(function.get("name"), f"{field}.name"),
        "input_schema": {"type": "object", **schema},
    }
    if function.get("description") is not None:
        param["description"] = _string(function["description"], f"{field}.description")
    if (strict := _flag(function, "strict", field)) is not None:
        param["strict"] = strict
    return param


def _tool_choice(body: Json, tools: list[Json]) -> Json | None:
    parallel = _flag(body, "parallel_tool_calls")
    choice = body.get("tool_choice")
    if choice is None:
        chosen = None if parallel is not False else {"type": "auto"}
    elif isinstance(choice, str):
        if choice not in _TOOL_CHOICES:
            _wrong("tool_choice", "must be 'none', 'auto', 'required' or the name of a function.")
        chosen = {"type": _TOOL_CHOICES[choice]}
    else:
        chosen = {"type": "tool", "name": _chosen_name(_object(choice, "tool_choice"))}
    if not tools:
        if chosen is not None and chosen["type"] in ("any", "tool"):
            _wrong("tool_choice", "asks for a call, but there are no 'tools'.")
        return None
    if chosen is None or chosen["type"] == "none" or parallel is not False:
        return chosen
    return {**chosen, "disable_parallel_tool_use": True}


def _chosen_name(choice: Json) -> str:
    if choice.get("type") != "function":
        raise refuse("tool_choice.type", "must be 'function': this model's provider has no other choices.")
    _only(choice, "tool_choice", {"type", "function"})
    function = _object(choice.get("function"), "tool_choice.function")
    _only(function, "tool_choice.function", {"name"})
    return _string(function.get("name"), "tool_choice.function.name")


def _reasoning(effort: Any) -> tuple[Json | None, Json]:
    """`thinking`, and what goes into `output_config` (https://docs.claude.com/en/docs/build-with-claude/effort)."""
    if effort is None:
        return None, {}
    if effort == "none":
        return {"type": "disabled"}, {}
    if _string(effort, "reasoning_effort") not in _EFFORTS:
        raise refuse("reasoning_effort", f"must be one of none, {', '.join(_EFFORTS)}.")
    return {"type": "adaptive"}, {"effort": _EFFORTS[effort]}


def _output_format(value: Any) -> Json:
    """What goes into `output_config` (https://docs.claude.com/en/docs/build-with-claude/structured-outputs).

    A description of the format goes into its schema, where the model sees it.
    """
    wanted = {"type": "text"} if value is None else _object(value, "response_format")
    if wanted.get("type") == "text":
        return {}
    if wanted.get("type") != "json_schema":
        raise refuse("response_format.type", "must be 'text' or 'json_schema': this model's provider has no other.")
    _only(wanted, "response_format", {"type", "json_schema"})
    field = "response_format.json_schema"
    described = _object(wanted.get("json_schema"), field)
    _only(described, field, {"name", "description", "schema", "strict"})
    schema = _object(described.get("schema"), f"{field}.schema")
    description = described.get("description")
    if description is not None:
        schema = {"description": _string(description, f"{field}.description"), **schema}
    return {"format": {"type": "json_schema", "schema": schema}}


def _stop_sequences(value: Any) -> list[str] | None:
    """Anthropic refuses sequences of nothing but white space."""
    if value is None:
        return None
    if isinstance(value, str):
        named = {"stop": value}
    else:
        named = {f"stop[{i}]": _string(entry, f"stop[{i}]") for i, entry in enumerate(_array(value, "stop"))}
    for field, sequence in named.items():
        if not sequence.strip():
            raise refuse(field, "must hold more than white space for this model's provider.")
    return list(named.values()) or None


def _share(body: Json, name: str) -> float | None:
    """`temperature` or `top_p`, which Anthropic takes from 0 to 1.

    Both vendors' default is 1. It is left out: Anthropic's newer models take no such field, and others not both.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        _wrong(name, "must be a number.")
    if not 0 <= value <= 1:
        raise refuse(name, "must be between 0 and 1 for this model's provider.")
    return None if value == 1 else value


def _metadata(body: Json) -> Json | None:
    """`user` is the older name of `safety_identifier`."""
    for name in ("safety_identifier", "user"):
        if body.get(name) is not None:
            return {"user_id": _string(body[name], name)}
    return None


def _service_tier(value: Any) -> str | None:
    """OpenAI's `default` keeps to standard prices. The others leave the choice to Anthropic, which is its default."""
    if value is None:
        return None
    if _string(value, "service_tier") not in _SERVICE_TIERS:
        raise refuse("service_tier", _NOT_CARRIED)
    return "standard_only" if value == "default" else None


def _only(found: Json, field: str, known: Collection[str]) -> None:
    """Refuse a field that nothing here reads, unless it is null."""
    for name, value in found.items():
        if name not in known and value is not None:
            path = f"{field}.{name}" if field else name
            raise refuse(path[:_LONGEST_FIELD], _NOT_CARRIED)


def _flag(found: Json, name: str, field: str = "") -> bool | None:
    value = found.get(name)
    if value is not None and not isinstance(value, bool):
        _wrong(f"{field}.{name}" if field else name, "must be true or false.")
    return value


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        _wrong(field, "is required." if value is None else "must be a string.")
    return value


def _object(value: Any, field: str) -> Json:
    if not isinstance(value, dict):
        _wrong(field, "is required." if value is None else "must be an object.")
    return value


def _array(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        _wrong(field, "is required." if value is None else "must be an array.")
    return value


def _wrong(field: str, fault: str) -> NoReturn:
    """The value is wrong by OpenAI's own rules, or there is none."""
    raise InvalidRequest(f"'{field}' {fault}", field)
