"""What every translation between two vendors' wire formats offers.

A translator is pure: JSON in, JSON or events out. Each names its protocol as its base, so that a type checker reads
the two together. `path` is where the provider is asked; the client called another. The
client's errors are not translated here: whoever calls knows the shape of the API that was called.
"""

from __future__ import annotations

import json
from typing import Protocol

from serve.errors import InvalidRequest
from serve.schemas import Json


class Incomplete(Exception):
    """The provider's stream ended without saying that it was done, or what it said made no sense."""


BROKEN_OFF = frozenset({"abort", "error"})
"""What vLLM and OpenRouter say as the `finish_reason` of an answer that is not whole. Any unknown one is a stop."""


class StreamTranslator(Protocol):
    """One answer, event by event."""

    def feed(self, event: Json) -> bytes:
        """The client's events for one event of the provider: none, one or several, each whole. Never an error event.

        Raises `Incomplete` when the provider's event does not fit what came before it.
        """

    def finish(self) -> bytes:
        """The client's last events, once the provider's stream has ended. Raises `Incomplete`."""


class Translator(Protocol):
    """From the endpoint that a client called to the one that its provider has."""

    @property
    def path(self) -> str:
        """Of the provider's endpoint: `/v1/messages`."""

    def request(self, body: Json) -> Json:
        """The request for the provider; `body` is not changed.

        Raises `InvalidRequest` that names the field (`messages[2].content[0].type`) for what cannot be carried over.
        """

    def clients_field(self, field: str, body: Json) -> str:
        """What the client, whose request `body` was, calls a `field` of the request for the provider."""
        return field

    def response(self, answer: Json, request: Json) -> Json:
        """The client's whole answer; `request` is the client's own. Raises `Incomplete` when `answer` is none."""

    def stream(self, request: Json) -> StreamTranslator:
        """For one streamed answer; `request` is the client's own."""


def refuse(field: str, why: str) -> InvalidRequest:
    """The error for a field that cannot be carried over. `why` follows the field's name in the message."""
    return InvalidRequest(f"'{field}' {why}", field, "unsupported_parameter")


def event(payload: Json, name: str | None = None) -> bytes:
    """One server-sent event with a JSON payload."""
    # Half a surrogate pair, which JSON can write and UTF-8 cannot, becomes a question mark.
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    data = b"data: %b\n\n" % text
    return b"event: %b\n%b" % (name.encode(), data) if name else data
