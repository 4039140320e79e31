"""Anthropic's `/v1/messages` for a provider that has OpenAI's `/v1/chat/completions`.

Anthropic: https://platform.claude.com/docs/en/api/messages/create
OpenAI: https://platform.openai.com/docs/api-reference/chat/create

What the provider's API cannot say is refused with the field's name. Left out without a word are only:

- `cache_control` wherever it stands: such providers cache by themselves, and the answer is the same;
- `thinking` and `redacted_thinking` blocks of earlier turns: no provider of this dialect takes them back;
- `eager_input_streaming` of a tool, which says how an answer is cut, not what it is;
- `thinking: {type: disabled}`: no effort that means the same is known to every model of this dialect;
- what asks for nothing: nulls, `speed: "standard"`, empty lists, switches that are off.

`anthropic_openai_messages` carries the conversation over, `anthropic_openai_stream` the answer.
"""

from __future__ import annotations

import hashlib
from typing import Any

from typing_extensions import override

from serve.schemas import Json
from serve.translate.anthropic_openai_fields import UNSUPPORTED, array, known, only_as, string, unsupported_type
from serve.translate.anthropic_openai_messages import conversation
from serve.translate.anthropic_openai_stream import MessageEvents, whole_message
from serve.translate.fields import flag, malformed
from serve.translate.translator import StreamTranslator, Translator, refuse

_MOST_STOPS = 4
_LONGEST_USER = 128
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TIERS = {"auto": "auto", "standard_only": "default"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_THINKING = {"enabled": ("type", "budget_tokens", "display"), "adaptive": ("type", "display"), "disabled": ("type",)}
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
        found = known(body, "", *_FIELDS)
        if found.get("speed", "standard") != "standard":
            raise refuse("speed", UNSUPPORTED)
        asked = {field: found[field] for field in _SAME if field in found}
        if "max_tokens" in found:
            if found["max_tokens"] == 0:
                raise refuse("max_tokens", "must be at least 1: this model's provider has no cache to fill.")
            asked[self._length_field] = found["max_tokens"]
        return {
            **asked,
            "messages": conversation(found),
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
        return MessageEvents(request)


def _tools(found: Json) -> Json:
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(array(found.get("tools", []), "tools"))]
    asked: Json = {"tools": tools} if tools else {}
    if "tool_choice" in found:
        asked |= _tool_choice(found["tool_choice"], bool(tools))
    return asked


def _tool_choice(value: Any, has_tools: bool) -> Json:
    """OpenAI refuses any choice where there are no tools: one that means nothing then is left out."""
    at = "tool_choice"
    choice = known(value, at, "type", "name", "disable_parallel_tool_use")
    kind = string(choice, "type", at)
    asked: Json = {}
    if kind == "tool":
        asked["tool_choice"] = {"type": "function", "function": {"name": string(choice, "name", at)}}
    elif kind not in _CHOICES:
        raise malformed(f"{at}.type", "must be 'auto', 'any', 'tool' or 'none'.")
    elif "name" in choice:
        raise malformed(f"{at}.name", "goes with a choice of type 'tool' only.")
    elif has_tools or kind == "any":
        asked["tool_choice"] = _CHOICES[kind]
    if flag(choice, "disable_parallel_tool_use", at) and has_tools:
        asked["parallel_tool_calls"] = False
    return asked


def _tool(value: Any, at: str) -> Json:
    if not isinstance(value, dict):
        raise malformed(at, "must be an object.")
    if value.get("type") not in (None, "custom"):
        raise unsupported_type(string(value, "type", at), at)
    also = ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")
    found = known(value, at, "type", "name", "description", "input_schema", "strict", *also)
    only_as(found, "allowed_callers", ["direct"], at)
    only_as(found, "defer_loading", False, at)
    only_as(found, "input_examples", [], at)
    if not isinstance(found.get("input_schema"), dict):
        raise malformed(f"{at}.input_schema", "must be an object.")
    function = {"name": string(found, "name", at), "parameters": found["input_schema"]}
    carried = {field: found[field] for field in ("description", "strict") if field in found}
    return {"type": "function", "function": {**function, **carried}}


def _output(found: Json) -> Json:
    """`output_config` and `thinking`: an effort that is named goes before one that is worked out."""
    asked: Json = {}
    config = known(found.get("output_config", {}), "output_config", "effort", "format")
    effort = config.get("effort", _thinking_effort(found))
    if effort is not None:
        if effort not in _EFFORTS:
            raise malformed("output_config.effort", f"must be one of {', '.join(_EFFORTS)}.")
        asked["reasoning_effort"] = effort
    if "format" in config:
        at = "output_config.format"
        output_format = known(config["format"], at, "type", "schema")
        if output_format.get("type") != "json_schema":
            raise refuse(f"{at}.type", "must be 'json_schema'.")
        if not isinstance(output_format.get("schema"), dict):
            raise malformed(f"{at}.schema", "must be an object.")
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
        raise malformed("thinking", "must be an object.")
    kind = string(found["thinking"], "type", "thinking")
    if kind not in _THINKING:
        raise unsupported_type(kind, "thinking")
    thinking = known(found["thinking"], "thinking", *_THINKING[kind])
    if thinking.get("display", "summarized") not in ("summarized", "omitted"):
        raise malformed("thinking.display", "must be 'summarized' or 'omitted'.")
    if kind != "enabled":
        return "high" if kind == "adaptive" else None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise malformed("thinking.budget_tokens", "must be an integer.")
    return "low" if budget < 4096 else "medium" if budget < 16384 else "high"


def _stops(found: Json) -> Json:
    stops = array(found.get("stop_sequences", []), "stop_sequences")
    for number, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise malformed(f"stop_sequences[{number}]", "must be a string.")
    if len(stops) > _MOST_STOPS:
        raise refuse("stop_sequences", f"holds more than {_MOST_STOPS}: this model's provider takes no more.")
    return {"stop": stops} if stops else {}


def _caller(found: Json) -> Json:
    """Who asks, and how urgently. OpenAI takes 128 characters of the one, so that a longer name goes as its SHA-256."""
    asked: Json = {}
    metadata = known(found.get("metadata", {}), "metadata", "user_id")
    if "user_id" in metadata:
        user = string(metadata, "user_id", "metadata")
        if len(user) > _LONGEST_USER:
            user = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
        asked["safety_identifier"] = user
    if "service_tier" in found:
        tier = _TIERS.get(string(found, "service_tier", ""))
        if tier is None:
            raise malformed("service_tier", f"must be one of {', '.join(_TIERS)}.")
        asked["service_tier"] = tier
    return asked


def _streaming(found: Json) -> Json:
    return {"stream": True, "stream_options": {"include_usage": True}} if flag(found, "stream", "") else {}
