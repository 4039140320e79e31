"""Which fields the vendors' endpoints have, as their SDKs declare them."""

from __future__ import annotations

from functools import cache

from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from serve.api.endpoints import Kind

_FIELDS = {
    # OpenRouter, and others after it, have `reasoning` beside `reasoning_effort`.
    Kind.CHAT: frozenset(ChatParams.__annotations__) | {"reasoning"},
    Kind.COMPLETION: frozenset(CompletionParams.__annotations__),
    Kind.RESPONSE: frozenset(ResponseCreateParamsBase.__annotations__),
    # Its newest models take neither of these two, and so the SDK has them no more; others do.
    Kind.MESSAGE: frozenset(MessageCreateParamsBase.__annotations__) | {"temperature", "top_p"},
}
_OPENAIS = _FIELDS[Kind.CHAT] | _FIELDS[Kind.COMPLETION] | _FIELDS[Kind.RESPONSE]


@cache
def missing(kind: Kind) -> frozenset[str]:
    """Fields that OpenAI has at another endpoint. What no vendor has anywhere may be a provider's own (`top_k`)."""
    return _OPENAIS - _FIELDS.get(kind, _OPENAIS)
