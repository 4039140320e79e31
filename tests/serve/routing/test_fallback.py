from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import (
    CONTENT_FILTER,
    PROVIDER_NOT_FOUND,
    REFUSED_KEY,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
)
from serve.routing.fallback import (
    CODES_THAT_MOVE_ON,
    MOVES_ON,
    Failure,
    attempts_left,
    is_outage,
    moves_on,
    told,
)

LIMIT = Failure("gpt", 429, "rate_limit_exceeded", 4.0)
BROKE = Failure("demo", 500, "engine_error")
NOT_SENT = Failure("demo", 500, "engine_error", sent=False)
OVERLOADED = Failure("claude", 529, "provider_overloaded", 2.0)


def failure(status: int, code: str = "some_code") -> Failure:
    return Failure("gpt", status, code)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_what_another_model_may_do_better_moves_on(status: int) -> None:
    assert moves_on(failure(status), on_content_filter=False)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 405, 413, 415, 422, 424])
def test_what_the_caller_did_wrong_does_not(status: int) -> None:
    assert not moves_on(failure(status), on_content_filter=True)


def test_a_prompt_that_is_too_long_for_one_model_may_fit_another() -> None:
    assert moves_on(failure(400, "context_length_exceeded"), on_content_filter=False)


@pytest.mark.parametrize("status", [400, 429, 502])
@pytest.mark.parametrize("on_content_filter", [True, False])
def test_what_a_content_filter_refused_moves_on_where_the_operator_wants_it(
    status: int, on_content_filter: bool
) -> None:
    assert moves_on(failure(status, CONTENT_FILTER), on_content_filter=on_content_filter) is on_content_filter


def test_a_key_that_the_provider_refuses_moves_on() -> None:
    assert moves_on(failure(502, REFUSED_KEY), on_content_filter=False)


@pytest.mark.parametrize(
    ("status", "outage"),
    [
        *((status, True) for status in (500, 502, 503, 504, 529)),
        *((status, False) for status in (400, 401, 404, 408, 424, 429)),
    ],
)
def test_an_outage_is_the_models_own_fault(status: int, outage: bool) -> None:
    assert is_outage(failure(status)) is outage


def test_who_does_not_know_a_model_or_an_endpoint_may_know_others() -> None:
    assert not is_outage(failure(502, PROVIDER_NOT_FOUND))


@given(st.integers(100, 599), st.sampled_from(["x", CONTENT_FILTER, *CODES_THAT_MOVE_ON]))
def test_every_outage_moves_on_but_for_a_content_filter(status: int, code: str) -> None:
    failed = failure(status, code)
    assert not is_outage(failed) or moves_on(failed, on_content_filter=True)
    assert status in MOVES_ON or not is_outage(failed)


@pytest.mark.parametrize(
    ("made", "left"),
    [
        ([], 4),
        ([LIMIT], 3),
        ([LIMIT, OVERLOADED], 2),
        ([LIMIT] * 4, 0),
        ([BROKE], 1),
        ([BROKE, LIMIT], 0),
        ([BROKE, BROKE], 0),
        ([LIMIT, BROKE], 1),
        ([LIMIT, LIMIT, LIMIT, BROKE], 0),
        ([NOT_SENT], 3),
        ([NOT_SENT, BROKE], 1),
    ],
)
def test_a_request_that_broke_an_engine_is_seen_by_one_more_at_most(made: list[Failure], left: int) -> None:
    assert attempts_left(made, 4) == left


FAILURES = st.lists(st.sampled_from([LIMIT, OVERLOADED, BROKE, NOT_SENT]), max_size=8)


@given(FAILURES, st.integers(1, 8))
def test_attempts_come_to_an_end(failures: list[Failure], most: int) -> None:
    made: list[Failure] = []
    while failures and attempts_left(made, most) > 0:
        made.append(failures.pop())
    assert len(made) <= most
    assert sum(failed == BROKE for failed in made) <= 2


@pytest.mark.parametrize(
    ("failed", "kind", "code"),
    [
        (failure(429, "rate_limit_exceeded"), TooManyRequests, "rate_limit_exceeded"),
        (failure(429, "insufficient_quota"), TooManyRequests, "insufficient_quota"),
        (failure(503, "left_out_after_failures"), Unavailable, "left_out_after_failures"),
        (failure(529, "provider_overloaded"), Unavailable, "provider_overloaded"),
        (failure(408, "timeout"), DeadlineExceeded, "deadline_exceeded"),
        (failure(504, "deadline_exceeded"), DeadlineExceeded, "deadline_exceeded"),
        (failure(500, "engine_error"), EngineFailed, "engine_error"),
        (failure(400, "context_length_exceeded"), InvalidRequest, "context_length_exceeded"),
        (failure(400, CONTENT_FILTER), InvalidRequest, CONTENT_FILTER),
        (failure(502, REFUSED_KEY), UpstreamFailed, REFUSED_KEY),
        (failure(502, "upstream_error"), UpstreamFailed, "upstream_error"),
        (failure(429, "status_429"), TooManyRequests, "rate_limit_exceeded"),
        (failure(503, "status_503"), Unavailable, "service_unavailable"),
        (failure(504, "status_504"), DeadlineExceeded, "deadline_exceeded"),
        (failure(500, "status_500"), EngineFailed, "engine_error"),
        (failure(502, "status_502"), UpstreamFailed, "upstream_error"),
    ],
)
def test_the_caller_is_told_what_the_model_that_was_asked_for_said(
    failed: Failure, kind: type[SwitchboardError], code: str
) -> None:
    for failures in ([failed], [failed, LIMIT, BROKE]):
        error = told(failures)
        assert type(error) is kind
        assert error.code == code


def test_all_that_were_tried_are_named_in_order() -> None:
    assert told([LIMIT, BROKE, OVERLOADED]).message == (
        "The model is at its limit of requests. "
        "Tried: gpt=rate_limit_exceeded, demo=engine_error, claude=provider_overloaded."
    )


def test_one_alone_is_not_named() -> None:
    assert told([LIMIT]).message == "The model is at its limit of requests."


@pytest.mark.parametrize(
    ("failures", "wait"),
    [
        ([LIMIT], 4.0),
        ([LIMIT, OVERLOADED], 2.0),
        ([OVERLOADED, LIMIT], 2.0),
        ([LIMIT, BROKE], 4.0),
        ([failure(429)], 1.0),
        ([failure(503), LIMIT], 4.0),
        ([Failure("gpt", 429, "x", 0.0)], 1.0),
        ([BROKE, LIMIT], None),
    ],
)
def test_the_pause_is_the_shortest_that_was_asked_for(failures: list[Failure], wait: float | None) -> None:
    assert told(failures).retry_after_s == wait
