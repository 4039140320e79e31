import json
import time
from typing import Any

import pytest

from serve.errors import (
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
)
from serve.translate.vllm_errors import from_body, from_event, from_exception
from tests.serve.translate.recorded import recorded

ERRORS = recorded("errors")
CHAT = "/v1/chat/completions"


def told(name: str) -> SwitchboardError:
    case = ERRORS[name]
    return from_body(case["path"], case["status"], json.dumps(case["body"]).encode())


@pytest.mark.parametrize(
    ("name", "param", "message"),
    [
        ("chat_nomsg", "messages", "messages: Field required"),
        ("chat_temp", "temperature", "temperature must be non-negative, got -1.0."),
        ("chat_n", "n", "n must be at most 16384, got 100000."),
        ("chat_maxtok", "max_tokens", "max_tokens=100000 cannot be greater than max_model_len=1024."),
        ("chat_s_stop", "stop", "stop cannot contain an empty string."),
        ("chat_seed", "seed", "seed: Input should be less than or equal to 9223372036854775807"),
        ("chat_tmpl", None, "Refused request with untrusted chat template."),
        ("chat_regex", None, "Grammar error: at 1(8): invalid regex"),
        ("comp_type", "prompt", "prompt: Input should be a valid list"),
        ("resp_none", "input", "input: Field required"),
        ("resp_type", "input[0].content", "input[0].content: Input should be a valid string"),
        ("msg_nomax", "max_tokens", "max_tokens: Field required"),
        ("msg_role", "messages[0].role", "messages[0].role: Input should be 'user', 'assistant' or 'system'"),
        ("msg_max0", "max_tokens", "max_tokens: max_tokens must be positive"),
        ("msg_maxtok", "max_tokens", "max_tokens=100000 cannot be greater than"),
        ("msg_s_stop", "stop_sequences", "stop_sequences cannot contain an empty string."),
        ("badjson", None, "JSON decode error"),
        ("utf8", None, "There was an error parsing the body"),
    ],
)
def test_a_bad_request_names_the_field_in_the_callers_words(name: str, param: str | None, message: str) -> None:
    error = told(name)
    assert isinstance(error, InvalidRequest)
    assert error.param == param
    assert error.message.startswith(message)


@pytest.mark.parametrize(
    ("name", "param"),
    [("chat_ctx", "messages"), ("comp_ctx", "prompt"), ("resp_ctx", "input"), ("count_ctx", "messages")],
)
def test_a_prompt_beyond_the_context_has_openais_code(name: str, param: str) -> None:
    error = told(name)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", param)


@pytest.mark.parametrize("name", ["chat_model", "msg_model"])
def test_an_unknown_model_is_not_found_and_no_other_is_named(name: str) -> None:
    error = told(name)
    assert isinstance(error, NotFound)
    assert (error.param, error.code) == ("model", "model_not_found")
    assert "demo" not in error.message


def test_an_unknown_previous_response() -> None:
    error = told("resp_prev")
    assert (error.status, error.code, error.param) == (
        400,
        "previous_response_not_found",
        "previous_response_id",
    )


@pytest.mark.parametrize(
    "message",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
    ],
)
def test_tools_that_the_engine_has_no_parser_for(message: str) -> None:
    error = from_body(CHAT, 400, json.dumps({"error": {"message": message, "code": 400}}).encode())
    assert (error.status, error.param) == (400, "tools")
    assert error.message == "This model is not set up for tool calls."


def test_an_endpoint_that_the_model_does_not_serve() -> None:
    assert told("emb").code == "unsupported_endpoint"
    assert from_body(CHAT, 501, b"{}").status == 404


def test_a_wrong_method() -> None:
    assert isinstance(told("405"), MethodNotAllowed)


@pytest.mark.parametrize("name", ERRORS)
def test_no_message_shows_the_inside(name: str) -> None:
    message = told(name).message
    for inside in (
        "VLLM_",
        "--",
        "pydantic",
        "Param",
        "(parameter=",
        "Traceback",
        "alias",
        "loc'",
        "EngineCore",
    ):
        assert inside not in message
    assert 0 < len(message) <= 600


@pytest.mark.parametrize(
    ("inside", "shown"),
    [
        ("No adapter found for /srv/models/x/adapter.bin", "No adapter found for <path>"),
        ("<object at 0x7f00aa> is bad", "<object> is bad"),
        ("Bad.\nTraceback (most recent call last):\n  File x", "Bad."),
        ("[14:09:56] /project/cpp/regex.cc:83: Not closed.", "Not closed."),
        ("Too long. Start with --max-model-len 5 to allow it.", "Too long."),
        ("Set VLLM_X=1.", "The request is not valid."),
        ("Fetching https://example.com/a/b/c.png failed", "Fetching https://example.com/a/b/c.png failed"),
        ("x" * 5000, "x" * 599 + "…"),
    ],
)
def test_a_message_is_scrubbed(inside: str, shown: str) -> None:
    body = json.dumps({"error": {"message": inside, "code": 400}}).encode()
    assert from_body(CHAT, 400, body).message == shown


@pytest.mark.parametrize(
    ("status", "expected"),
    [(429, TooManyRequests), (500, EngineFailed), (502, EngineFailed), (503, Unavailable)],
)
def test_the_servers_own_faults_are_generic(status: int, expected: type[SwitchboardError]) -> None:
    error = from_body(CHAT, status, json.dumps({"error": {"message": "secret", "code": status}}).encode())
    assert type(error) is expected
    assert "secret" not in error.message
    assert (error.retry_after_s is not None) == (status in {429, 503})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"error": null}', b'{"detail": [1]}'])
def test_a_body_that_says_nothing_is_judged_by_its_status(body: bytes) -> None:
    assert from_body(CHAT, 400, body).message == "The request is not valid."
    assert isinstance(from_body(CHAT, 500, body), EngineFailed)


def test_an_error_event_says_its_status_itself() -> None:
    assert isinstance(from_event(CHAT, b'{"error": {"message": "bad", "code": 400}}'), InvalidRequest)
    assert isinstance(from_event(CHAT, b'{"error": {"message": "bad", "code": 500}}'), EngineFailed)
    assert isinstance(from_event(CHAT, b"torn"), EngineFailed)


@pytest.mark.parametrize(
    "piece", ["x", "a b ", "(parameter=x, value=", "/a", "'loc': 'b', 'msg': '", "VLLM_", "`", "Response with id '"]
)
@pytest.mark.parametrize("status", [400, 404])
def test_a_clients_text_in_a_message_cannot_stall_us(piece: str, status: int) -> None:
    body = json.dumps({"error": {"message": piece * 200_000, "code": status}}).encode()
    began = time.process_time()
    assert len(from_body(CHAT, status, body).message) <= 600
    assert time.process_time() - began < 1


class VLLMClientError(Exception):
    parameter: str | None = "top_logprobs"


class VLLMNotFoundError(VLLMClientError):
    parameter = None


class EngineDeadError(Exception):
    pass


class RetryableRequestError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (VLLMClientError("top_logprobs must be positive (parameter=top_logprobs, value=-1)"), 400),
        (ValueError("bad"), 400),
        (VLLMNotFoundError("The model `x` does not exist."), 404),
        (RetryableRequestError("again"), 503),
        (EngineDeadError("dead"), 500),
        (KeyError("x"), 500),
    ],
)
def test_an_exception_is_judged_as_vllm_judges_it(error: Exception, status: int) -> None:
    assert from_exception(CHAT, error).status == status


def test_the_exception_is_found_under_starlettes() -> None:
    wrapped: Any = RuntimeError("Caught handled exception, but response already started.")
    wrapped.__cause__ = VLLMClientError("top_logprobs must be positive")
    error = from_exception("/v1/responses", wrapped)
    assert (error.status, error.param) == (400, "top_logprobs")
