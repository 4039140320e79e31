from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseError

from serve.errors import (
    CONTENT_FILTER,
    CONTEXT_LENGTH,
    NO_CREDIT,
    PROVIDER_NOT_FOUND,
    PROVIDER_REFUSED,
    REFUSED_KEY,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
)
from serve.schemas import Json
from serve.translate import vendor_errors
from serve.translate.provider_events import error_in
from serve.translate.vendor_errors import (
    MAX_MESSAGE_CHARS,
    MAX_RETRY_AFTER_S,
    from_answer,
    from_event,
    retry_after_s,
    scrubbed,
)
from tests.fakes import vendors

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
Row = tuple[int, str, str | None, type[SwitchboardError], str | None]


def answered(
    status: int, kind: str = "", code: str | None = None, text: str = "No.", path: str = CHAT, **headers: str
) -> SwitchboardError:
    body = json.dumps(vendors.error_body(path, kind, code, text)).encode()
    return from_answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


OPENAI: list[Row] = [
    (400, "invalid_request_error", None, InvalidRequest, None),
    (400, "invalid_request_error", "unsupported_value", InvalidRequest, "unsupported_value"),
    (400, "invalid_request_error", "context_length_exceeded", InvalidRequest, CONTEXT_LENGTH),
    (400, "invalid_request_error", "content_filter", InvalidRequest, CONTENT_FILTER),
    (400, "invalid_request_error", "content_policy_violation", InvalidRequest, CONTENT_FILTER),
    (401, "invalid_request_error", "invalid_api_key", UpstreamFailed, REFUSED_KEY),
    (403, "permission_error", "unsupported_country_region_territory", UpstreamFailed, REFUSED_KEY),
    (404, "invalid_request_error", "model_not_found", UpstreamFailed, PROVIDER_NOT_FOUND),
    (404, "invalid_request_error", None, UpstreamFailed, PROVIDER_NOT_FOUND),
    (413, "invalid_request_error", None, BodyTooLarge, "request_too_large"),
    (422, "invalid_request_error", None, InvalidRequest, None),
    (429, "requests", "rate_limit_exceeded", TooManyRequests, "rate_limit_exceeded"),
    (429, "insufficient_quota", "insufficient_quota", TooManyRequests, NO_CREDIT),
    (429, "insufficient_quota", None, TooManyRequests, NO_CREDIT),
    (429, "billing", "credit_limit", TooManyRequests, NO_CREDIT),
    (500, "server_error", None, UpstreamFailed, "upstream_error"),
    (503, "server_error", None, Unavailable, "provider_overloaded"),
]
ANTHROPIC: list[Row] = [
    (400, "invalid_request_error", None, InvalidRequest, None),
    (401, "authentication_error", None, UpstreamFailed, REFUSED_KEY),
    (402, "billing_error", None, TooManyRequests, NO_CREDIT),
    (403, "permission_error", None, UpstreamFailed, REFUSED_KEY),
    (404, "not_found_error", None, UpstreamFailed, PROVIDER_NOT_FOUND),
    (413, "request_too_large", None, BodyTooLarge, "request_too_large"),
    (429, "rate_limit_error", None, TooManyRequests, "rate_limit_exceeded"),
    (500, "api_error", None, UpstreamFailed, "upstream_error"),
    (504, "timeout_error", None, DeadlineExceeded, "deadline_exceeded"),
    (529, "overloaded_error", None, Unavailable, "provider_overloaded"),
]
ROWS = [(CHAT, *row) for row in OPENAI] + [(MESSAGES, *row) for row in ANTHROPIC]


@pytest.mark.parametrize(("path", "status", "kind", "code", "error", "told"), ROWS)
def test_what_a_vendors_error_means(
    path: str, status: int, kind: str, code: str | None, error: type[SwitchboardError], told: str | None
) -> None:
    found = answered(status, kind, code, path=path)
    assert (type(found), found.code) == (error, told)


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (301, UpstreamFailed, PROVIDER_REFUSED),
        (307, UpstreamFailed, PROVIDER_REFUSED),
        (400, InvalidRequest, None),
        (401, UpstreamFailed, REFUSED_KEY),
        (404, UpstreamFailed, PROVIDER_NOT_FOUND),
        (408, DeadlineExceeded, "deadline_exceeded"),
        (405, UpstreamFailed, PROVIDER_NOT_FOUND),
        (409, UpstreamFailed, PROVIDER_REFUSED),
        (418, UpstreamFailed, PROVIDER_REFUSED),
        (429, TooManyRequests, "rate_limit_exceeded"),
        (502, UpstreamFailed, "upstream_error"),
        (503, Unavailable, "provider_overloaded"),
        (504, DeadlineExceeded, "deadline_exceeded"),
        (520, UpstreamFailed, "upstream_error"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b'{"error": "No."}', b'{"error": null}'])
def test_without_a_vendors_body_the_status_says_it(
    body: bytes, status: int, error: type[SwitchboardError], told: str | None
) -> None:
    found = from_answer(status, body, {})
    assert (type(found), found.code) == (error, told)
    assert found.message


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 8192 tokens.",
        "Your input exceeds the context window of this model.",
        "prompt is too long: 200001 tokens > 200000 maximum",
        "Input is too long for requested model.",
        "Too many tokens",
        "the request exceeds the available context size, try increasing it",
        "context_length",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_too_long_is_known_by_its_text_too(text: str, status: int) -> None:
    found = answered(status, "invalid_request_error", text=text)
    assert (type(found), found.code, found.message) == (InvalidRequest, CONTEXT_LENGTH, text)


def test_what_the_caller_did_wrong_is_told_with_its_field() -> None:
    body = {"error": {"message": "Must be at most 2.", "param": "temperature", "code": "too_large"}}
    found = from_answer(400, json.dumps(body).encode(), {})
    assert (found.message, found.param, found.code) == ("Must be at most 2.", "temperature", "too_large")


@pytest.mark.parametrize(
    ("error", "message", "param"),
    [
        (
            {"message": "Conversation with id 'conv_x' not found.", "param": "conversation", "code": None},
            "Conversation with id 'conv_x' not found.",
            "conversation",
        ),
        ({"type": "not_found_error", "message": "File not found: file_011"}, "File not found: file_011", None),
        (
            {"message": "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false."},
            "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
            None,
        ),
    ],
)
def test_what_the_caller_named_and_the_provider_does_not_have_is_the_callers_404(
    error: Json, message: str, param: str | None
) -> None:
    found = from_answer(404, json.dumps({"error": error}).encode(), {})
    assert (type(found), found.message, found.param) == (NotFound, message, param)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "model_not_found", "message": "No."},
        {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."},
        {"param": "model", "message": "This is not a chat model."},
        {"message": "The model `gpt-9` does not exist or you do not have access to it."},
        {"message": "model: claude-9"},
        {"message": 'model "llama9" not found, try pulling it first'},
        {"message": "models/gemini-9 is not found for API version v1"},
        {"message": "The requested model 'x' does not exist."},
        {"message": "No endpoints found for some/model.", "code": 404},
        {"message": "Invalid URL (POST /v1/v1/responses)"},
        {"message": "Not Found"},
        {"message": "File Not Found"},
        {"message": "Publisher Model `projects/p/locations/l/publishers/g/models/m` was not found."},
        {"message": "Requested entity was not found."},
        {"message": "Unable to access model x."},
        {"message": "No allowed providers are available for the selected model."},
        {"message": "Could not find model 'x'"},
        {"message": "litellm.NotFoundError: model x does not exist"},
        {"message": "Cannot POST /v1/responses"},
        {"message": "The requested URL /v1/messages was not found on this server."},
        {"message": "no Route matched with those values"},
        {"message": ""},
    ],
)
def test_a_model_or_an_address_that_the_provider_does_not_know_is_the_operators(error: Json) -> None:
    found = from_answer(404, json.dumps({"error": error}).encode(), {})
    assert (type(found), found.code) == (UpstreamFailed, PROVIDER_NOT_FOUND)


def test_an_error_may_be_the_whole_body() -> None:
    body = {"object": "error", "message": "Must be at most 2.", "param": "temperature", "code": 400}
    found = from_answer(400, json.dumps(body).encode(), {})
    assert (type(found), found.message, found.param) == (InvalidRequest, "Must be at most 2.", "temperature")


@pytest.mark.parametrize("code", [400, "400"])
def test_a_code_that_is_a_status_says_nothing_more_to_the_caller(code: object) -> None:
    assert from_answer(400, json.dumps({"error": {"message": "No.", "code": code}}).encode(), {}).code is None


@pytest.mark.parametrize("param", [None, 1, ["a"], {"a": 1}])
def test_a_field_that_is_no_name_is_left_out(param: object) -> None:
    assert from_answer(400, json.dumps({"error": {"param": param}}).encode(), {}).param is None


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504, 529])
def test_what_a_vendor_says_of_itself_and_of_us_is_not_passed_on(status: int) -> None:
    assert "canary" not in answered(status, text="Organization org-canary of canary.internal has no rights.").message


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_the_pause_that_it_asks_for_goes_with_the_error(status: int) -> None:
    assert answered(status, retry_after="7").retry_after_s == 7
    assert answered(status).retry_after_s is None


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 504])
def test_where_waiting_is_no_help_there_is_none(status: int) -> None:
    assert answered(status, retry_after="7").retry_after_s is None


NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "999999999"}, MAX_RETRY_AFTER_S),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW + 30)}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 16:13:50 +0200"}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(NOW + 86400, usegmt=True)}, MAX_RETRY_AFTER_S),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "12.5"}, 0.0125),
        ({"retry-after-ms": "999999999"}, MAX_RETRY_AFTER_S),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after-ms": "-1"}, None),
        *(({"retry-after": junk}, None) for junk in ["", " ", "soon", "-1", "nan", "inf", "1e9", "7s", "1" * 40]),
        ({"retry-after": "Mon, 99 Sep 2026 14:13:50 GMT"}, None),
        ({"retry-after": "Mon, 21 Sep 99999 14:13:50 GMT"}, None),
    ],
)
def test_a_pause_comes_in_many_forms(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], seconds: float | None
) -> None:
    monkeypatch.setattr(vendor_errors, "time", lambda: NOW)
    assert retry_after_s(headers) == seconds


@given(st.text() | st.from_regex(r"[A-Za-z]{3}, \d+ [A-Za-z]{3} \d+ \d+:\d+:\d+ [-+A-Z]*\d*", fullmatch=True))
def test_a_pause_is_never_less_than_none_nor_more_than_the_longest(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after_s({name: value})
        assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("path", "kind", "code", "error", "told"),
    [
        (MESSAGES, "overloaded_error", None, Unavailable, "provider_overloaded"),
        (MESSAGES, "rate_limit_error", None, TooManyRequests, "rate_limit_exceeded"),
        (MESSAGES, "api_error", None, UpstreamFailed, "upstream_error"),
        (MESSAGES, "timeout_error", None, DeadlineExceeded, "deadline_exceeded"),
        (MESSAGES, "authentication_error", None, UpstreamFailed, REFUSED_KEY),
        (MESSAGES, "permission_error", None, UpstreamFailed, REFUSED_KEY),
        (MESSAGES, "not_found_error", None, UpstreamFailed, PROVIDER_NOT_FOUND),
        (MESSAGES, "request_too_large", None, BodyTooLarge, "request_too_large"),
        (CHAT, "server_error", None, UpstreamFailed, "upstream_error"),
        (CHAT, "invalid_request_error", "context_length_exceeded", InvalidRequest, CONTEXT_LENGTH),
        (CHAT, "invalid_request_error", "content_filter", InvalidRequest, CONTENT_FILTER),
        (CHAT, "tokens", "rate_limit_exceeded", TooManyRequests, "rate_limit_exceeded"),
        (CHAT, "insufficient_quota", "insufficient_quota", TooManyRequests, NO_CREDIT),
    ],
)
def test_in_a_stream_its_type_or_code_says_it(
    path: str, kind: str, code: str | None, error: type[SwitchboardError], told: str | None
) -> None:
    found = from_event(vendors.error_body(path, kind, code, "No."))
    assert (type(found), found.code) == (error, told)


RESPONSE_CODES: list[tuple[type[SwitchboardError], str | None, tuple[str, ...]]] = [
    (TooManyRequests, "rate_limit_exceeded", ("rate_limit_exceeded",)),
    (UpstreamFailed, "upstream_error", ("server_error", "data_residency_mismatch", "a_new_one")),
    (DeadlineExceeded, "deadline_exceeded", ("vector_store_timeout",)),
    (
        InvalidRequest,
        CONTENT_FILTER,
        ("image_content_policy_violation", "bio_policy", "misalignment_policy_violation"),
    ),
    *(
        (InvalidRequest, code, (code,))
        for code in (
            "invalid_prompt", "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url",
            "image_too_large", "image_too_small", "image_parse_error", "invalid_image_mode", "image_file_too_large",
            "unsupported_image_media_type", "empty_image_file", "failed_to_download_image", "image_file_not_found",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "error", "told"), [(code, error, told) for error, told, codes in RESPONSE_CODES for code in codes]
)
def test_a_failed_response_means_the_same_in_an_event_and_whole(
    code: str, error: type[SwitchboardError], told: str
) -> None:
    reason = {"code": code, "message": "No."}
    whole: Json = {"object": "response", "status": "failed", "error": reason}
    failed: Json = {"type": "response.failed", "response": whole}
    for event in ({"type": "error", "param": None, **reason}, failed, whole):
        found = error_in(event)
        assert found is not None
        reported = from_event(found)
        assert (type(reported), reported.code) == (error, told)


def test_every_code_of_a_failed_response_is_known_by_what_it_means() -> None:
    documented = get_args(ResponseError.model_fields["code"].annotation)
    assert {code for _, _, codes in RESPONSE_CODES for code in codes} - {"a_new_one"} == set(documented)


def test_an_error_events_code_says_more_than_its_type() -> None:
    unknown = {"type": "invalid_request_error", "code": "model_not_found", "message": "No."}
    assert from_event({"error": unknown}).code == PROVIDER_NOT_FOUND


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, InvalidRequest), (429, TooManyRequests), (503, Unavailable), (200, UpstreamFailed), (True, UpstreamFailed)],
)
def test_a_code_that_is_a_status_stands_for_the_one_that_a_stream_has_not(
    code: object, error: type[SwitchboardError]
) -> None:
    assert type(from_event({"error": {"message": "No.", "type": "BadRequestError", "code": code}})) is error


@pytest.mark.parametrize("event", [{}, {"error": None}, {"error": "No."}, {"error": {}}, {"error": {"type": [1]}}])
def test_an_error_that_says_nothing_is_the_providers_failure(event: Json) -> None:
    assert type(from_event(event)) is UpstreamFailed


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Wrong value.", "Wrong value."),
        ("  Two\r\n\tlines  ", "Two lines"),
        ("Wrong: sk-proj-abc_123.x", "Wrong: …"),
        ("Wrong: sk-ant-api03-aB**********yZ!", "Wrong: …!"),
        ("Wrong: gsk_abcd1234, hf_abcd1234", "Wrong: …, …"),
        ("Bearer abcdef.ghi", "…"),
        ("see https://10.0.0.1:8000/v1?a=b for more", "see … for more"),
        ("see (http://host/)", "see (…"),
        ("a risk-free task-based talk", "a risk-free task-based talk"),
        ("", ""),
    ],
)
def test_keys_and_addresses_are_taken_out(text: str, plain: str) -> None:
    assert scrubbed(text) == plain


def test_a_message_is_bounded() -> None:
    words = "word " * MAX_MESSAGE_CHARS
    assert scrubbed(words[:MAX_MESSAGE_CHARS].strip()) == words[:MAX_MESSAGE_CHARS].strip()
    assert scrubbed(words) == words[: MAX_MESSAGE_CHARS - 1] + "…"


def test_a_key_across_the_bound_is_not_cut_in_two() -> None:
    assert "sk-" not in scrubbed("x" * (MAX_MESSAGE_CHARS - 10) + " sk-" + "a" * 40)


@pytest.mark.parametrize(
    "odd", ["c" * 1000, "sk-abcd1234", "https://10.0.0.1/", "two words", "line\r\nx-header: 1", ""]
)
def test_a_code_or_field_that_looks_like_none_is_left_out(odd: str) -> None:
    body = {"error": {"message": "No.", "code": odd, "param": odd}}
    found = from_answer(400, json.dumps(body).encode(), {})
    assert (found.code, found.param) == (None, None)


STATUSES = st.integers(100, 599) | st.sampled_from([400, 413, 422, 401, 429])
ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ERRORS = st.fixed_dictionaries({"error": st.dictionaries(st.sampled_from(["message", "type", "code", "param"]), ANY)})
BODIES = st.binary() | (ERRORS | ANY).map(lambda payload: json.dumps(payload).encode())
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x"]), st.text())


@given(STATUSES, BODIES, HEADERS)
def test_any_answer_has_its_error(status: int, body: bytes, headers: dict[str, str]) -> None:
    found = from_answer(status, body, headers)
    assert found.message
    assert len(found.message) <= MAX_MESSAGE_CHARS
    assert len(found.message.splitlines()) == 1


@given(ERRORS | st.dictionaries(st.text(), ANY))
def test_any_event_has_its_error(event: Json) -> None:
    assert from_event(event).message


WITHIN = st.sampled_from([" ", "\n", "\t", '"', "'", "(", "=", ":", ",", "/", "Your key is "])
KEYS = st.from_regex(r"sk-(proj-|ant-api03-)?[A-Za-z0-9_-]{8,60}", fullmatch=True)
ADDRESSES = st.from_regex(r"https?://[a-z0-9.]{4,20}(:[0-9]{2,5})?(/[a-z?=&]{0,20})?", fullmatch=True)


@given(STATUSES, st.lists(st.tuples(st.text(), WITHIN, KEYS | ADDRESSES), min_size=1, max_size=4))
def test_no_key_and_no_address_gets_through(status: int, parts: list[tuple[str, str, str]]) -> None:
    message = answered(status, text=" ".join("".join(part) for part in parts)).message
    assert not re.search(r"\bsk-[A-Za-z0-9_-]{4}|https?://[a-z0-9]", message)
