"""How many tokens an answer of a provider used, read from the provider's own dialect.

Sources: `usage` in https://platform.openai.com/docs/api-reference/chat/object, /completions/object, /embeddings and
/responses/object, and in https://docs.claude.com/en/api/messages and /messages-streaming.

What a provider says is wild input. A count that is none is passed over, as if it had not been said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from serve.schemas import Json
from serve.translate.provider_events import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from serve.translate.sse import parse

EMBEDDINGS = "/v1/embeddings"
MAX_TOKENS = 10**9
"""Of one request. More is no count: no context is that long."""

INPUT, OUTPUT, CACHED_INPUT = "input", "output", "cached_input"
REPORTED, ESTIMATED = "reported", "estimated"

# Not `in`, which takes longer; and not the name alone, after which OpenAI writes a `null` in every chunk.
may_hold_usage = re.compile(rb'usage"\s*:\s*\{').search
"""Whether a whole event may say something of usage. False alarms cost a look."""


class Count(NamedTuple):
    """Tokens of one `kind`. `source` says whether the provider told so."""

    kind: str
    source: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Dialect:
    """Where a provider writes its counts. A path that is dotted leads into an object."""

    input: tuple[str, ...]
    """They add up."""
    output: str
    cached: str
    holder: str | None = None
    """The field of a stream's event that holds the answer, and so its usage."""
    opens: bool = False
    """Whether `holder` is the answer as it begins: its output is not yet made."""

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.input, self.output, self.cached)


_OLDER = _Dialect(("prompt_tokens",), "completion_tokens", "prompt_tokens_details.cached_tokens")
_DIALECTS = {
    CHAT: _OLDER,
    COMPLETIONS: _OLDER,
    EMBEDDINGS: _OLDER,
    RESPONSES: _Dialect(("input_tokens",), "output_tokens", "input_tokens_details.cached_tokens", holder="response"),
    # Anthropic counts the prompt in three parts: read from the cache, written to it, and neither.
    MESSAGES: _Dialect(
        ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        "output_tokens",
        "cache_read_input_tokens",
        holder="message",
        opens=True,
    ),
}


class Usage:
    """Of one answer of the endpoint at `path`: to be given the whole answer, or every event of it that may tell.

    A stream's counts are cumulative: of each, the last that was told is in force. Endpoints that make nothing
    (`count_tokens`) have none.
    """

    def __init__(self, path: str) -> None:
        self._dialect = _DIALECTS.get(path)
        self._told: dict[str, int] = {}

    def read(self, said: Json) -> None:
        """A whole answer, or an event of a stream. Never raises."""
        dialect = self._dialect
        if dialect is None:
            return
        held = said.get(dialect.holder) if dialect.holder else None
        answer = held if isinstance(held, dict) else said
        usage = answer.get("usage")
        if not isinstance(usage, dict):
            return
        for field in dialect.fields:
            if field == dialect.output and dialect.opens and answer is held:
                continue
            if (count := _count(usage, field)) is not None:
                self._told[field] = count

    def read_block(self, block: bytes) -> None:
        """An event that passes as it is: what cannot be read in it is the client's to see, and no fault here."""
        data = parse(block).data
        try:
            said = json.loads(data) if data else None
        except (ValueError, RecursionError):
            return
        if isinstance(said, dict):
            self.read(said)

    def counts(self, pieces: int = 0) -> list[Count]:
        """What the provider reported, and for an output that it did not report the `pieces` that came of it.

        The input of such an answer is only known where it was told at the beginning, as Anthropic does.
        """
        dialect, told = self._dialect, self._told
        if dialect is None:
            return []
        found: list[Count] = []
        given = [told[field] for field in dialect.input if field in told]
        if given:
            found.append(Count(INPUT, REPORTED, sum(given)))
            # It is a part of the input. What is more than the whole is no count.
            if (cached := told.get(dialect.cached)) is not None and cached <= sum(given):
                found.append(Count(CACHED_INPUT, REPORTED, cached))
        if dialect.output in told:
            found.append(Count(OUTPUT, REPORTED, told[dialect.output]))
        elif pieces:
            found.append(Count(OUTPUT, ESTIMATED, pieces))
        return found


def _count(usage: Json, path: str) -> int | None:
    value: Any = usage
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    # Not isinstance: a bool is an int too.
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
