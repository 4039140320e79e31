"""The client called OpenAI's `/v1/responses`; its provider has `/v1/chat/completions` only.

Shapes: https://platform.openai.com/docs/api-reference/responses and https://platform.openai.com/docs/api-reference/chat.

Of a request, what the chat API can say is carried over and what it cannot is refused; a null is an absent field. These
alone are taken and change nothing:

- `store`: nothing is stored, and the answer says so;
- `reasoning.summary`, `reasoning.generate_summary` and `reasoning` items: the chat API has no place for reasoning, so
  none is sent back to the model and none is summed up;
- `include: ["reasoning.encrypted_content"]`: there is nothing to encrypt;
- `stream_options.include_obfuscation`: no event is padded;
- `id`, `status` and `phase` of an item, `name` of a call's output, `annotations` and `logprobs` of a text: what an
  earlier answer said of itself;
- `tool_choice` and `parallel_tool_calls` where there are no tools, which the chat API does not allow.

A provider whose chat answers have `thinking_blocks`, as Claude's have behind `openai_anthropic`, wants them back in the
midst of a tool loop. With `thinking` they travel as the `encrypted_content` of `reasoning` items (`sealed_thinking`),
whether `include` asks for it or not: OpenAI's own answers always have it, and nothing is stored here to fall back on.

`responses_chat_messages` carries the conversation over, `responses_chat_stream` the answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from serve.schemas import Json
from serve.translate.responses_chat_fields import (
    NOTHING_STORED,
    UNAVAILABLE,
    fields,
    items,
    one_of,
    optional,
    required,
    string,
    text_of,
    type_of,
    typed,
    wrong_type,
)
from serve.translate.responses_chat_messages import conversation, places
from serve.translate.responses_chat_names import clients_field
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

_REFUSED: dict[str, str] = {
    "previous_response_id": NOTHING_STORED,
    "conversation": NOTHING_STORED,
    "prompt": f"{UNAVAILABLE}: no prompts are stored.",
    "max_tool_calls": f"{UNAVAILABLE}: it has no built-in tools to count.",
}
_ONLY: dict[str, tuple[Any, str]] = {
    "background": (False, "may only be false: a response is not kept to be fetched later."),
    "truncation": ("disabled", "may only be 'disabled': no input is left out."),
    "top_logprobs": (0, f"{UNAVAILABLE}."),
}
"""Fields that may be sent with the value that they have anyway, and why with no other."""

_READ = (
    *("input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"),
    *("text", "reasoning", "include", "store", "stream", "stream_options"),
)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = ("auto", "concise", "detailed")
_VERBOSITIES = ("low", "medium", "high")


def _random_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex


class ResponsesToChat(Translator):
    """Keeps nothing between requests. `clock` is seconds since the epoch; `new_id` makes an id from its prefix.

    `thinking` says that the provider knows `thinking_blocks`. No other is ever sent them, although a conversation may
    have them from Claude: of its `reasoning` items nothing is read then.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[str], str] = _random_id,
        *,
        thinking: bool = False,
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._thinking = thinking

    @property
    @override
    def path(self) -> str:
        return "/v1/chat/completions"

    @override
    def request(self, body: Json) -> Json:
        asked = fields(body, "", {*_SAME, *_REFUSED, *_ONLY, *_READ})
        _refuse_what_chat_has_not(asked)
        chat = optional(asked, "", _SAME)
        _check_metadata(chat.get("metadata", {}))
        chat["messages"] = conversation(asked, thinking=self._thinking)
        if "max_output_tokens" in asked:
            limit = typed(asked["max_output_tokens"], "an integer", "max_output_tokens")
            chat["max_completion_tokens"] = limit
        return chat | _tools(asked) | _text(asked) | _reasoning(asked) | _stream(asked)

    @override
    def clients_field(self, field: str, body: Json) -> str:
        given = {name: value for name, value in body.items() if value is not None}
        return clients_field(field, places(given, thinking=self._thinking))

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
        return ResponseStream(request, self._clock, self._new_id, thinking=self._thinking)


def _refuse_what_chat_has_not(asked: Json) -> None:
    for name, why in _REFUSED.items():
        if name in asked:
            raise refuse(name, why)
    for name, (value, why) in _ONLY.items():
        if asked.get(name, value) != value:
            raise refuse(name, why)
    for at, include in items(asked.get("include", []), "include"):
        if include != "reasoning.encrypted_content":
            raise refuse(at, f"{UNAVAILABLE}.")
    typed(asked.get("store", False), "true or false", "store")


def _check_metadata(metadata: Json) -> None:
    for name, value in metadata.items():
        string(value, f"metadata.{name}")


def _tools(asked: Json) -> Json:
    tools = [_tool(tool, at) for at, tool in items(asked.get("tools", []), "tools")]
    said: Json = {"tools": tools} if tools else {}
    choice = _tool_choice(asked.get("tool_choice", "auto"))
    if "tool_choice" in asked and (tools or choice not in ("auto", "none")):
        said["tool_choice"] = choice
    if "parallel_tool_calls" in asked:
        parallel = typed(asked["parallel_tool_calls"], "true or false", "parallel_tool_calls")
        said |= {"parallel_tool_calls": parallel} if tools else {}
    return said


def _tool(tool: Any, at: str) -> Json:
    """Unlike in the Responses API, a function that does not say `strict` is not: its schema may not allow it."""
    kind = type_of(tool, at)
    if kind != "function":
        raise wrong_type(kind, at)
    given = fields(tool, at, ("type", "name", "description", "parameters", "strict"))
    function: Json = {"name": text_of(given, "name", at)}
    function |= optional(given, at, {"description": "a string", "parameters": "an object", "strict": "true or false"})
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> str | Json:
    if isinstance(choice, str):
        return str(one_of(choice, ("auto", "none", "required"), "tool_choice"))
    kind = type_of(choice, "tool_choice")
    if kind != "function":
        raise wrong_type(kind, "tool_choice")
    name = text_of(fields(choice, "tool_choice", ("type", "name")), "name", "tool_choice")
    return {"type": "function", "function": {"name": name}}


def _text(asked: Json) -> Json:
    given = fields(asked.get("text", {}), "text", ("format", "verbosity"))
    said: Json = {}
    if "verbosity" in given:
        said["verbosity"] = one_of(given["verbosity"], _VERBOSITIES, "text.verbosity")
    kind = type_of(given.get("format", {}), "text.format", "text")
    if kind == "json_schema":
        said["response_format"] = {"type": kind, "json_schema": _schema(given["format"])}
    elif kind == "json_object":
        fields(given["format"], "text.format", ("type",))
        said["response_format"] = {"type": kind}
    elif kind != "text":
        raise wrong_type(kind, "text.format")
    return said


def _schema(format_: Any) -> Json:
    at = "text.format"
    given = fields(format_, at, ("type", "name", "schema", "description", "strict"))
    schema = {
        "name": text_of(given, "name", at),
        "schema": typed(required(given, "schema", at), "an object", f"{at}.schema"),
    }
    return schema | optional(given, at, {"description": "a string", "strict": "true or false"})


def _reasoning(asked: Json) -> Json:
    given = fields(asked.get("reasoning", {}), "reasoning", ("effort", "summary", "generate_summary"))
    for name in ("summary", "generate_summary"):
        one_of(given.get(name, "auto"), _SUMMARIES, f"reasoning.{name}")
    return {"reasoning_effort": one_of(given["effort"], _EFFORTS, "reasoning.effort")} if "effort" in given else {}


def _stream(asked: Json) -> Json:
    fields(asked.get("stream_options", {}), "stream_options", ("include_obfuscation",))
    if not typed(asked.get("stream", False), "true or false", "stream"):
        return {}
    return {"stream": True, "stream_options": {"include_usage": True}}
