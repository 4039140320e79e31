import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import anthropic
import anthropic.types
import httpx2
import openai
import pytest
from openai.types.responses import ResponseErrorEvent
from openai.types.shared import ErrorObject

from serve.api.endpoints import Kind
from serve.api.errors import render, stream_error
from serve.errors import (
    AdapterUnusable,
    BodyTooLarge,
    ConfigError,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    RequestTimedOut,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UnsupportedEncoding,
    UpstreamFailed,
)
from serve.schemas import Dialect

ALL = [
    (InvalidRequest("m"), "invalid_request_error", "invalid_request_error"),
    (NotAuthenticated("m"), "invalid_request_error", "authentication_error"),
    (NotFound("m"), "invalid_request_error", "not_found_error"),
    (MethodNotAllowed("m", ("POST",)), "invalid_request_error", "invalid_request_error"),
    (RequestTimedOut("m"), "invalid_request_error", "invalid_request_error"),
    (BodyTooLarge("m"), "invalid_request_error", "request_too_large"),
    (UnsupportedEncoding("m"), "invalid_request_error", "invalid_request_error"),
    (AdapterUnusable("m"), "invalid_request_error", "invalid_request_error"),
    (TooManyRequests("m"), "rate_limit_error", "rate_limit_error"),
    (EngineFailed("m"), "server_error", "api_error"),
    (UpstreamFailed("m"), "server_error", "api_error"),
    (Unavailable("m"), "server_error", "overloaded_error"),
    (DeadlineExceeded("m"), "server_error", "timeout_error"),
]


@pytest.mark.parametrize(("error", "kind", "_"), ALL)
def test_openai_callers_get_openais_body(error: SwitchboardError, kind: str, _: str) -> None:
    reply = render(error, Dialect.OPENAI, "req_1")
    body = json.loads(reply.body)
    assert reply.status == error.status
    assert list(body) == ["error"]
    assert ErrorObject.model_validate(body["error"], strict=True).type == kind
    assert body["error"]["code"] == error.code


@pytest.mark.parametrize(("error", "_", "kind"), ALL)
def test_anthropic_callers_get_anthropics_body(error: SwitchboardError, _: str, kind: str) -> None:
    reply = render(error, Dialect.ANTHROPIC, "req_1")
    body = json.loads(reply.body)
    assert body == {"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "req_1"}
    if kind != "request_too_large":  # in the documentation, not in the SDK's types
        anthropic.types.ErrorResponse.model_validate(body)


def test_the_field_at_fault_is_named() -> None:
    error = InvalidRequest("Must be positive.", param="max_tokens", code="bad")
    openai_body = json.loads(render(error, Dialect.OPENAI, "r").body)
    assert openai_body["error"]["param"] == "max_tokens"
    assert openai_body["error"]["code"] == "bad"
    anthropic_body = json.loads(render(error, Dialect.ANTHROPIC, "r").body)
    assert anthropic_body["error"]["message"] == "max_tokens: Must be positive."


def headers_of(error: Exception, dialect: Dialect = Dialect.OPENAI) -> dict[bytes, bytes]:
    return dict(render(error, dialect, "req_1").headers)


@pytest.mark.parametrize(("after", "header"), [(None, b"1"), (0.2, b"1"), (1.0, b"1"), (1.2, b"2"), (90, b"90")])
def test_retry_after_is_whole_seconds_and_at_least_one(after: float | None, header: bytes) -> None:
    assert headers_of(Unavailable("m", retry_after_s=after))[b"retry-after"] == header
    assert headers_of(TooManyRequests("m", retry_after_s=after))[b"retry-after"] == header


def test_other_headers_belong_to_their_errors() -> None:
    assert headers_of(EngineFailed("m"))[b"x-should-retry"] == b"false"
    assert headers_of(MethodNotAllowed("m", ("GET", "HEAD")))[b"allow"] == b"GET, HEAD"
    assert headers_of(UnsupportedEncoding("m"))[b"accept-encoding"] == b"identity"
    plain = headers_of(InvalidRequest("m"))
    assert not {b"retry-after", b"x-should-retry", b"allow", b"accept-encoding"} & set(plain)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    "error", [RuntimeError("/srv/secret.py: sk-123"), ConfigError("/etc/secret.yaml", ("models: sk-123",))]
)
def test_what_is_unexpected_says_nothing(error: Exception, dialect: Dialect) -> None:
    reply = render(error, dialect, "req_1")
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert b"sk-123" not in reply.body


def streaming(stream: bytes) -> httpx2.MockTransport:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    return httpx2.MockTransport(answer)


@pytest.fixture
def openai_reading() -> Iterator[Callable[[bytes], openai.OpenAI]]:
    with ExitStack() as stack:

        def client(stream: bytes) -> openai.OpenAI:
            http = stack.enter_context(httpx2.Client(transport=streaming(stream)))
            return openai.OpenAI(api_key="x", http_client=http, _strict_response_validation=True)

        yield client


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.COMPLETION])
def test_an_older_openai_stream_ends_with_an_error_and_done(
    kind: Kind, openai_reading: Callable[[bytes], openai.OpenAI]
) -> None:
    end = stream_error(EngineFailed("m"), kind, "r")
    assert end.endswith(b"\n\ndata: [DONE]\n\n")
    client = openai_reading(end)
    with pytest.raises(openai.APIError, match="m") as caught:
        list(client.chat.completions.create(model="demo", messages=[], stream=True))
    assert caught.value.code == "engine_error"
    assert caught.value.type == "server_error"


def test_a_responses_stream_ends_with_a_numbered_error(
    openai_reading: Callable[[bytes], openai.OpenAI],
) -> None:
    last = b'data: {"sequence_number":6}\n\ndata: {"sequence_number":7,"delta":"\\"sequence_number\\": 99"}\n\n'
    end = stream_error(EngineFailed("m"), Kind.RESPONSE, "r", last)
    (event,) = openai_reading(end).responses.create(model="demo", input="x", stream=True)
    assert isinstance(event, ResponseErrorEvent)
    assert (event.sequence_number, event.code, event.message) == (8, "engine_error", "m")


def test_a_messages_stream_ends_with_an_error() -> None:
    end = stream_error(Unavailable("m"), Kind.MESSAGE, "req_1")
    with httpx2.Client(transport=streaming(end)) as http:
        client = anthropic.Anthropic(api_key="x", http_client=http)
        with pytest.raises(anthropic.APIStatusError) as caught:
            list(client.messages.create(model="demo", messages=[], max_tokens=1, stream=True))
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "m"},
        "request_id": "req_1",
    }
