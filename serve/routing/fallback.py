"""What a failed attempt means for the rest of the plan: data and pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.errors import (
    CONTENT_FILTER,
    CONTEXT_LENGTH,
    NO_CREDIT,
    NOT_CARRIED,
    PROVIDER_NOT_FOUND,
    PROVIDER_REFUSED,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
)

MOVES_ON = {
    408: "timeout",
    429: "rate limit, or no room",
    500: "engine failed",
    502: "provider failed or refused our key",
    503: "no live replica, overloaded, unreachable",
    504: "no answer in time",
    529: "overloaded",
}
"""Statuses of a manager after which the next target is asked. What the caller did wrong (400, 401, 403, 404, 413, 422,
424) would be wrong there too, but for the codes below."""

CODES_THAT_MOVE_ON = {CONTEXT_LENGTH: "too long for this model"}

PASSING = frozenset({"upstream_error"})
"""Codes of failures that are often over at once: a provider's 500 or 502, a connection that it was just closing."""
PASSING_S = 0.2

_ENGINE = 500
_OURS = frozenset({"unreachable", "timeout", "malformed", "empty", "too_large"})
"""Codes for headers and logs. The caller's error has the one of its class instead."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt gave no answer.

    `status` and `code` as the manager has them, or as they would be. `sent`: whether the model may have worked on it.
    """

    target: str
    status: int
    code: str
    retry_after_s: float | None = None
    sent: bool = True

    @property
    def reason(self) -> str:
        """`gpt=rate_limit_exceeded`, for headers and messages."""
        return f"{self.target}={self.code}"


def moves_on(failure: Failure, *, on_content_filter: bool, stands_in: bool = False) -> bool:
    """Whether the next target may be asked after this. `stands_in`: it is not what the caller asked for.

    What such a one cannot be asked at all is no fault of the caller's, who did not ask for it.
    """
    if failure.code == CONTENT_FILTER:
        return on_content_filter
    if failure.code in NOT_CARRIED:
        return stands_in
    return failure.status in MOVES_ON or failure.code in CODES_THAT_MOVE_ON


def pause_s(failure: Failure) -> float | None:
    """Seconds after which the same provider is worth asking once more; None for never."""
    if not failure.sent or failure.code == NO_CREDIT:
        return None
    if failure.retry_after_s is None and failure.code in PASSING:
        return PASSING_S
    return failure.retry_after_s


def is_outage(failure: Failure) -> bool:
    """Whether it speaks against the model rather than the request: what a circuit breaker counts."""
    refused = failure.code in {PROVIDER_NOT_FOUND, PROVIDER_REFUSED}
    return failure.status in {500, 502, 503, 504, 529} and not refused


def attempts_left(made: Sequence[Failure], max_attempts: int) -> int:
    """How many more there may be. A request that broke an engine is seen by one more replica at most."""
    left = max_attempts - len(made)
    broke = next((index for index, failure in enumerate(made) if failure.status == _ENGINE and failure.sent), None)
    return left if broke is None else min(left, broke + 2 - len(made))


def told(failures: Sequence[Failure]) -> SwitchboardError:
    """The error for the caller when all have failed: the first one's, since that is what was asked for.

    A pause that it asks for is the shortest of all.
    """
    first = failures[0]
    code = None if first.code in _OURS or first.code.startswith("status_") else first.code
    waits = [failure.retry_after_s for failure in failures if failure.retry_after_s is not None]
    wait = min(waits, default=None)
    suffix = f" Tried: {', '.join(failure.reason for failure in failures)}." if len(failures) > 1 else ""
    if first.status == 429:
        return TooManyRequests(f"The model is at its limit of requests.{suffix}", None, code, wait or 1.0)
    if first.status in {503, 529}:
        return Unavailable(f"The model cannot take this request right now.{suffix}", None, code, wait or 1.0)
    if first.status in {408, 504}:
        return DeadlineExceeded(f"The model did not answer in time.{suffix}", None, code)
    if first.status == _ENGINE:
        return EngineFailed(f"The model failed on this request.{suffix}", None, code)
    if first.code in CODES_THAT_MOVE_ON or first.code == CONTENT_FILTER:
        return InvalidRequest(f"The model refused this request ({first.code}).{suffix}", None, code)
    return UpstreamFailed(f"The model gave no usable answer.{suffix}", None, code)
