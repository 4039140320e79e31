"""OpenAI's `/v1/chat/completions` for the client, Anthropic's `/v1/messages` at the provider.

Sources: https://platform.openai.com/docs/api-reference/chat/create and https://docs.claude.com/en/api/messages. This
file carries the request over but for its conversation, `openai_anthropic_messages` that one, and
`openai_anthropic_stream` the answer.

What has no counterpart and changes the answer is refused by name; a value that asks for nothing (null, `n` of 1) is
not. Nothing is dropped but what `IGNORED` lists. Where a model takes less than Anthropic's schema does (no
`temperature`, no `thinking`), its provider refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from serve.schemas import Json
from serve.translate.fields import flag, malformed
from serve.translate.openai_anthropic_fields import NOT_CARRIED, array, json_object, only, string
from serve.translate.openai_anthropic_messages import conversation
from serve.translate.openai_anthropic_stream import Chunks, completion
from serve.translate.translator import StreamTranslator, Translator, refuse

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
_EFFORTS = {"minimal": "low", **{effort: effort for effort in ("low", "medium", "high", "xhigh", "max")}}
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_TOOL_CHOICES = {"none": "none", "auto": "auto", "required": "any"}


class ChatToMessages(Translator):
    """Keeps nothing between requests.

    `default_max_tokens` is for requests that set no limit of their own: Anthropic needs one. `clock` gives the seconds
    since the epoch for `created`.
    """

    path = "/v1/messages"

    def __init__(self, default_max_tokens: int = 4096, clock: Callable[[], float] = time.time) -> None:
        self._default_max_tokens = default_max_tokens
        self._clock = clock

    @override
    def request(self, body: Json) -> Json:
        _check_fields(body)
        system, messages = conversation(array(body.get("messages"), "messages"))
        tools = _tools(body.get("tools"))
        thinking, effort = _reasoning(body.get("reasoning_effort"))
        output = effort | _output_format(body.get("response_format"))
        fields = {
            "model": string(body.get("model"), "model"),
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
            "stream": flag(body, "stream") or None,
            "thinking": thinking,
            "output_config": output or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @override
    def response(self, answer: Json, request: Json) -> Json:
        return completion(answer, int(self._clock()))

    @override
    def stream(self, request: Json) -> StreamTranslator:
        options = request.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        return Chunks(int(self._clock()), include_usage=include_usage)

    def _max_tokens(self, body: Json) -> int:
        limits: list[int] = []
        for name in ("max_completion_tokens", "max_tokens"):
            limit = body.get(name)
            if limit is None:
                continue
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise malformed(name, "must be a positive integer.")
            limits.append(limit)
        if len(set(limits)) > 1:
            raise malformed("max_tokens", "contradicts 'max_completion_tokens'.")
        return limits[0] if limits else self._default_max_tokens


def _check_fields(body: Json) -> None:
    for name, neutral in _NEUTRAL.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise refuse(name, NOT_CARRIED)
    only(body, "", _KNOWN)
    options = body.get("stream_options")
    if options is not None:
        options = json_object(options, "stream_options")
        only(options, "stream_options", {"include_obfuscation", "include_usage"})
        flag(options, "include_usage", "stream_options")


def _tools(value: Any) -> list[Json]:
    return [] if value is None else [_tool_param(tool, f"tools[{i}]") for i, tool in enumerate(array(value, "tools"))]


def _tool_param(value: Any, field: str) -> Json:
    tool = json_object(value, field)
    if tool.get("type") != "function":
        raise refuse(f"{field}.type", "must be 'function': this model's provider has no other tools.")
    only(tool, field, {"type", "function"})
    field = f"{field}.function"
    function = json_object(tool.get("function"), field)
    only(function, field, {"name", "description", "parameters", "strict"})
    parameters = function.get("parameters")
    schema = {} if parameters is None else json_object(parameters, f"{field}.parameters")
    param: Json = {
        "name": string(function.get("name"), f"{field}.name"),
        "input_schema": {"type": "object", **schema},
    }
    if function.get("description") is not None:
        param["description"] = string(function["description"], f"{field}.description")
    if (strict := flag(function, "strict", field)) is not None:
        param["strict"] = strict
    return param


def _tool_choice(body: Json, tools: list[Json]) -> Json | None:
    parallel = flag(body, "parallel_tool_calls")
    choice = body.get("tool_choice")
    if choice is None:
        chosen = None if parallel is not False else {"type": "auto"}
    elif isinstance(choice, str):
        if choice not in _TOOL_CHOICES:
            raise malformed("tool_choice", "must be 'none', 'auto', 'required' or the name of a function.")
        chosen = {"type": _TOOL_CHOICES[choice]}
    else:
        chosen = {"type": "tool", "name": _chosen_name(json_object(choice, "tool_choice"))}
    if not tools:
        if chosen is not None and chosen["type"] in ("any", "tool"):
            raise malformed("tool_choice", "asks for a call, but there are no 'tools'.")
        return None
    if chosen is None or chosen["type"] == "none" or parallel is not False:
        return chosen
    return {**chosen, "disable_parallel_tool_use": True}


def _chosen_name(choice: Json) -> str:
    if choice.get("type") != "function":
        raise refuse("tool_choice.type", "must be 'function': this model's provider has no other choices.")
    only(choice, "tool_choice", {"type", "function"})
    function = json_object(choice.get("function"), "tool_choice.function")
    only(function, "tool_choice.function", {"name"})
    return string(function.get("name"), "tool_choice.function.name")


def _reasoning(effort: Any) -> tuple[Json | None, Json]:
    """`thinking`, and what goes into `output_config` (https://docs.claude.com/en/docs/build-with-claude/effort)."""
    if effort is None:
        return None, {}
    if effort == "none":
        return {"type": "disabled"}, {}
    if string(effort, "reasoning_effort") not in _EFFORTS:
        raise refuse("reasoning_effort", f"must be one of none, {', '.join(_EFFORTS)}.")
    return {"type": "adaptive"}, {"effort": _EFFORTS[effort]}


def _output_format(value: Any) -> Json:
    """What goes into `output_config` (https://docs.claude.com/en/docs/build-with-claude/structured-outputs).

    A description of the format goes into its schema, where the model sees it.
    """
    wanted = {"type": "text"} if value is None else json_object(value, "response_format")
    if wanted.get("type") == "text":
        return {}
    if wanted.get("type") != "json_schema":
        raise refuse("response_format.type", "must be 'text' or 'json_schema': this model's provider has no other.")
    only(wanted, "response_format", {"type", "json_schema"})
    field = "response_format.json_schema"
    described = json_object(wanted.get("json_schema"), field)
    only(described, field, {"name", "description", "schema", "strict"})
    schema = json_object(described.get("schema"), f"{field}.schema")
    description = described.get("description")
    if description is not None:
        schema = {"description": string(description, f"{field}.description"), **schema}
    return {"format": {"type": "json_schema", "schema": schema}}


def _stop_sequences(value: Any) -> list[str] | None:
    """Anthropic refuses sequences of nothing but white space."""
    if value is None:
        return None
    if isinstance(value, str):
        named = {"stop": value}
    else:
        named = {f"stop[{i}]": string(entry, f"stop[{i}]") for i, entry in enumerate(array(value, "stop"))}
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
        raise malformed(name, "must be a number.")
    if not 0 <= value <= 1:
        raise refuse(name, "must be between 0 and 1 for this model's provider.")
    return None if value == 1 else value


def _metadata(body: Json) -> Json | None:
    """`user` is the older name of `safety_identifier`."""
    for name in ("safety_identifier", "user"):
        if body.get(name) is not None:
            return {"user_id": string(body[name], name)}
    return None


def _service_tier(value: Any) -> str | None:
    """OpenAI's `default` keeps to standard prices. The others leave the choice to Anthropic, which is its default."""
    if value is None:
        return None
    if string(value, "service_tier") not in _SERVICE_TIERS:
        raise refuse("service_tier", NOT_CARRIED)
    return "standard_only" if value == "default" else None
