"""From a plan to an answer: pick a replica, relay its bytes, try another one or another model before the first of them.

Until the first byte of an answer's body, a failed attempt is invisible and the next one gets the request: another
replica of the same target, then the plan's next target. From that byte on the answer is the client's: a failure becomes
one error event in the API's own form, and the stream ends. What moves on is in `serve/routing/fallback.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from serve.api.endpoints import Endpoint
from serve.api.errors import stream_error
from serve.api.http import ClientDisconnected
from serve.config import ModelTimeouts
from serve.errors import AT_CAPACITY, CONTENT_FILTER, DeadlineExceeded, EngineFailed, SwitchboardError
from serve.gateway.clock import Clock
from serve.gateway.events import WholeEvents
from serve.gateway.exchange import NOBODY, Exchange
from serve.gateway.keepalive import KeepAlive
from serve.gateway.state import GatewayState
from serve.gateway.upstream import Answer, AttemptFailed, Upstream
from serve.mlops import metrics
from serve.routing.fallback import Failure, attempts_left, moves_on, pause_s, told
from serve.routing.pick import Traffic, pick
from serve.routing.plan import Plan
from serve.schemas import ReplicaState, Target

logger = logging.getLogger(__name__)

REPLICAS_PER_TARGET = 2
RETRIED = frozenset({429, 500, 502, 503})
"""Statuses of a replica that another replica may not share: full, broken, draining."""
LEFT_OUT = "left_out_after_failures"
LAST_WORD_S = 0.5
"""How long the event that ends a broken stream may wait for a client that is slow to read."""


@dataclass(frozen=True, slots=True)
class Forward:
    """One request, ready to be sent."""

    endpoint: Endpoint
    plan: Plan
    path: str
    body: bytes
    headers: Mapping[str, str]
    total_s: float
    """For all of it, attempts included."""
    sticky: str | None = None
    """The replica that a session's earlier turns went to."""
    settle: Callable[[str], Awaitable[None]] | None = None
    """Told which replica it is before the first byte of its answer goes out."""


@dataclass(slots=True)
class _Course:
    """What has become of one request so far."""

    exchange: Exchange
    forward: Forward
    failures: list[Failure]
    attempts: int = 0
    tried: list[str] = field(default_factory=list)
    """Replicas of the target at hand."""
    asked: list[tuple[bytes, bytes]] = field(default_factory=lambda: [NOBODY])
    clock: Clock = field(init=False)
    """Of the whole request."""

    def with_failure(self, failure: Failure) -> _Course:
        return replace(self, failures=[*self.failures, failure])

    def note(self, target: Target, replica: ReplicaState) -> None:
        """Count an attempt, and have the client told of it should it succeed."""
        self.attempts += 1
        self.tried.append(replica.replica_id)
        self.asked = [
            (b"x-switchboard-served-by", f"{target.model}; replica={replica.replica_id}".encode()),
            (b"x-switchboard-adapter", self._adapter(target).encode()),
        ]
        self.tell()

    def tell(self) -> None:
        """Have the answer's headers say what has become of it so far: who was asked last, how many, and why."""
        headers = [*self.asked, (b"x-switchboard-attempts", str(self.attempts).encode())]
        if reasons := ", ".join(failure.reason for failure in self.failures):
            headers.append((b"x-switchboard-fallback-reason", reasons.encode("latin-1", "replace")))
        self.exchange.served_by = headers

    def _adapter(self, target: Target) -> str:
        if target.adapter is not None:
            return target.adapter.short
        first = self.forward.plan.first_adapter
        return f"none; reason=fallback-from-{first}" if first else "none; reason=not-asked-for"


class Relay:
    """`wake` is told of a model that no replica can be picked for: it may have none because nobody asked."""

    def __init__(
        self, state: GatewayState, upstream: Upstream, rng: random.Random, wake: Callable[[str], None]
    ) -> None:
        self._wake = wake
        self._state = state
        self._upstream = upstream
        self._rng = rng

    async def run(self, exchange: Exchange, forward: Forward) -> None:
        """Answer the exchange.

        Raises a `SwitchboardError` while nothing has been sent, `ClientDisconnected` when the client left.
        """
        course = _Course(exchange, forward, list(forward.plan.skipped))
        with exchange.until_client_leaves():
            try:
                with Clock(forward.total_s) as course.clock:
                    await self._follow(course)
            except TimeoutError:
                error = DeadlineExceeded("The model did not answer in time.")
                if not exchange.started:
                    raise error from None
                await self._break_off(course, error)

    async def _follow(self, course: _Course) -> None:
        """The plan, target by target; at its end, once more where a provider asked for a short pause only."""
        targets = course.forward.plan.targets
        for index, target in enumerate(targets):
            if await self._try(course, target, targets[index + 1 :]):
                return
        if (again := self._worth_waiting_for(course)) is not None:
            target, wait_s = again
            await asyncio.sleep(wait_s * self._rng.uniform(1.0, 1.2))
            if await self._try(course, target, ()):
                return
        course.tell()
        raise told(course.failures)

    async def _try(self, course: _Course, target: Target, later: Sequence[Target]) -> bool:
        """Whether the client has its answer. Raises the error for it if no other target may be asked."""
        if self._attempts_left(course) < 1:
            return False
        admitted_at = time.monotonic()
        if not self._state.breakers.admits(target.model):
            course.failures.append(self._left_out(target))
            return False
        course.tried.clear()
        while len(course.tried) < REPLICAS_PER_TARGET and self._attempts_left(course) > 0:
            try:
                replica = self._pick(course, target)
            except SwitchboardError as error:
                self._state.breakers.said_nothing(target.model, admitted_at)
                self._wake(target.model)
                if course.tried:
                    break  # the failure says more than "there is nobody else"
                failure = Failure(
                    target.model, error.status, error.code or "unavailable", error.retry_after_s, sent=False
                )
                if (not later and not course.failures) or not self._moves_on(course, failure):
                    raise
                course.failures.append(failure)
                break
            course.note(target, replica)
            failed = await self._attempt(course, target, replica, later)
            if failed is None:
                return True
            course.failures.append(failed)
            if not self._moves_on(course, failed):
                course.tell()
                raise told(course.failures)
            if not self._may_be_the_replicas(target, failed):
                break
        return False

    def _left_out(self, target: Target) -> Failure:
        """By its circuit breaker. Who is at a provider's limit hears 429 for as long as the provider asked for."""
        breakers = self._state.breakers
        status, code = (429, "rate_limit_exceeded") if breakers.limited(target.model) else (503, LEFT_OUT)
        return Failure(target.model, status, code, breakers.left_out_for(target.model), sent=False)

    def _may_be_the_replicas(self, target: Target, failure: Failure) -> bool:
        """Whether another replica of the same target may not share this failure.

        All replicas of a hosted model ask the same provider, with the same key; their bounds are their own.
        """
        model = self._state.models.get(target.model)
        if model is not None and model.is_remote:
            return failure.code in {"unreachable", "service_unavailable", AT_CAPACITY}
        return failure.status in RETRIED

    def _attempts_left(self, course: _Course) -> int:
        made = [failure for failure in course.failures if failure.sent or failure.code == "unreachable"]
        return attempts_left(made, self._state.settings.fallback.max_attempts)

    def _moves_on(self, course: _Course, failure: Failure) -> bool:
        on_content_filter = self._state.settings.fallback.on_content_filter
        stands_in = failure.target != course.forward.plan.first_model
        return moves_on(failure, on_content_filter=on_content_filter, stands_in=stands_in)

    def _worth_waiting_for(self, course: _Course) -> tuple[Target, float] | None:
        bound = self._state.settings.fallback.max_wait_s
        if self._attempts_left(course) < 1:
            return None
        for target in course.forward.plan.targets:
            model = self._state.models.get(target.model)
            for failure in course.failures:
                wait_s = pause_s(failure)
                if failure.target != target.model or wait_s is None or model is None or not model.is_remote:
                    continue
                if wait_s <= bound:
                    return target, wait_s
        return None

    def _pick(self, course: _Course, target: Target) -> ReplicaState:
        traffic = Traffic(self._state.in_flight.unreported, course.tried, course.forward.sticky)
        return pick(target, self._state.snapshot, self._rng, traffic)

    def _has_another(self, course: _Course, target: Target, failure: Failure, later: Sequence[Target]) -> bool:
        """Whether there is anybody else to turn to after this attempt."""
        if course.attempts >= self._state.settings.fallback.max_attempts:
            return False
        if any(self._state.breakers.may_admit(one.model) for one in later):
            return True
        if not self._may_be_the_replicas(target, failure) or len(course.tried) >= REPLICAS_PER_TARGET:
            return False
        try:
            self._pick(course, target)
        except SwitchboardError:
            return False
        return True

    async def _attempt(
        self, course: _Course, target: Target, replica: ReplicaState, later: Sequence[Target]
    ) -> Failure | None:
        """Try one replica. Returns why it failed if another may be tried, None once the client has its answer."""
        outcome, began = "failed", time.monotonic()
        failure: Failure | None = None
        timeouts = self._timeouts(target)
        try:
            with self._state.sending_to(replica.replica_id), Clock(timeouts[0]) as clock:
                headers = {**course.forward.headers, **_target_headers(target)}
                async with self._upstream.post(
                    replica.url, course.forward.path, course.forward.body, headers, clock, timeouts[1]
                ) as answer:
                    outcome = "ok" if answer.status < 400 else f"status_{answer.status}"
                    failure = _failure(target, answer)
                    if failure is not None and not self._is_the_clients(course, target, failure, answer, later):
                        return failure
                    await self._copy(course, replica, answer, partial(self._state.answers, target.model, began))
                    return None
        except asyncio.CancelledError:
            outcome, failure = "deadline" if course.clock.expired else "client_gone", None
            raise
        except AttemptFailed as failed:
            outcome = failed.outcome
            failure = _lost(target, failed)
            if course.exchange.started:
                await self._break_off(course, EngineFailed("The model broke off its answer."))
                return None
            return failure
        except TimeoutError:
            outcome = "timeout"
            failure = Failure(target.model, 504, "timeout")
            if course.exchange.started:
                await self._break_off(course, DeadlineExceeded("The model stopped in the midst of its answer."))
                return None
            return failure
        finally:
            self._learn(course, target, replica, outcome, failure, began)

    def _timeouts(self, target: Target) -> tuple[float, float]:
        """Seconds to the first byte, and between two pieces."""
        model, usual = self._state.models.get(target.model), self._state.settings.timeouts
        own = model.timeouts if model is not None else ModelTimeouts()
        return own.first_byte_s or usual.first_byte_s, own.idle_s or usual.idle_s

    def _is_the_clients(
        self, course: _Course, target: Target, failure: Failure, answer: Answer, later: Sequence[Target]
    ) -> bool:
        """Whether the client gets this answer as it is: the manager has worded it in the form of the API."""
        if answer.status < 300:
            return not (self._moves_on(course, failure) and self._has_another(course, target, failure, later))
        if not answer.is_json:
            return False
        if not self._moves_on(course, failure):
            return True
        if course.failures or self._has_another(course, target, failure, later):
            return False
        return self._worth_waiting_for(course.with_failure(failure)) is None

    def _learn(
        self,
        course: _Course,
        target: Target,
        replica: ReplicaState,
        outcome: str,
        failure: Failure | None,
        began: float,
    ) -> None:
        """Metrics, the log's line for this hop, and the target's circuit breaker."""
        metrics.ATTEMPTS.labels(target.model, outcome).inc()
        logger.info(
            "attempt request=%s model=%s replica=%s outcome=%s seconds=%.4f",
            course.exchange.request_id,
            target.model,
            replica.replica_id,
            outcome if failure is None else f"{outcome} ({failure.code})",
            time.monotonic() - began,
        )
        self._state.note_attempt(target.model, outcome, failure, began)

    async def _copy(self, course: _Course, replica: ReplicaState, answer: Answer, answers: Callable[[], None]) -> None:
        """Pass the answer on; `answers` is called when a stream has become the client's. Raises `AttemptFailed`."""
        exchange = course.exchange
        if not answer.streams:
            # Whole before its status is sent: a body that breaks off can still be asked of another replica.
            body = await answer.read(self._state.settings.limits.answer_bytes)
            await _commit(course, replica, answer, (b"content-length", str(len(body)).encode()))
            await exchange.body(body, more=False)
            return
        events = WholeEvents()
        async with KeepAlive(exchange, self._state.settings.timeouts.keepalive_s) as stream:
            async for chunk in answer.chunks():
                whole = events.feed(chunk)
                if not whole:
                    continue
                if not exchange.started:
                    await _commit(course, replica, answer, (b"cache-control", b"no-cache"))
                    answers()
                await stream.send(whole)
        if not exchange.started:
            raise AttemptFailed("empty", sent=True)
        await exchange.body(events.rest, more=False)

    async def _break_off(self, course: _Course, error: SwitchboardError) -> None:
        """End a stream that cannot be finished with the one event that says so."""
        exchange = course.exchange
        last_word = stream_error(error, course.forward.endpoint.kind, exchange.request_id, exchange.sent_last)
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await exchange.body(last_word, more=False)
        except TimeoutError:
            # What it was sent before fills every buffer on the way: it does not read.
            raise ClientDisconnected from None


async def _commit(course: _Course, replica: ReplicaState, answer: Answer, header: tuple[bytes, bytes]) -> None:
    """From here on the answer is the client's."""
    if course.forward.settle is not None:
        await course.forward.settle(replica.replica_id)
    await course.exchange.start(answer.status, [*answer.headers, header])


def _target_headers(target: Target) -> dict[str, str]:
    headers = {"x-switchboard-model": target.model}
    if target.adapter is not None:
        headers["x-switchboard-adapter"] = target.adapter.address
    return headers


def _failure(target: Target, answer: Answer) -> Failure | None:
    if answer.status < 300:
        # A good answer that holds nothing but the refusal of a content filter: another model may have more to say.
        return Failure(target.model, 400, CONTENT_FILTER) if answer.code == CONTENT_FILTER else None
    code = answer.code or f"status_{answer.status}"
    if answer.is_json:
        return Failure(target.model, answer.status, code, answer.retry_after_s)
    # Not the manager's words, nor any that a client could read.
    return Failure(target.model, answer.status if answer.status in RETRIED else 502, code, answer.retry_after_s)


def _lost(target: Target, failed: AttemptFailed) -> Failure:
    if not failed.sent:
        return Failure(target.model, 503, "unreachable", 1.0, sent=False)
    if failed.outcome in {"malformed", "empty", "too_large"}:
        return Failure(target.model, 502, failed.outcome)
    return Failure(target.model, 500, "engine_error")
