"""From a plan to an answer: pick a replica, relay its bytes, try one more if it fails before the first of them.

Until the first byte of an answer's body, a failed attempt is invisible and the next replica gets the request. From
that byte on the answer is the client's: a failure becomes one error event in the API's own form, and the stream ends.
At most `MAX_ATTEMPTS` replicas see a request, because some requests kill the engine that runs them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serve.api.endpoints import Endpoint
from serve.api.errors import stream_error
from serve.api.http import ClientDisconnected
from serve.errors import DeadlineExceeded, EngineFailed, SwitchboardError, Unavailable, UpstreamFailed
from serve.gateway.events import WholeEvents
from serve.gateway.exchange import Exchange
from serve.gateway.state import GatewayState
from serve.gateway.upstream import Answer, AttemptFailed, Clock, Upstream
from serve.mlops import metrics
from serve.routing.pick import Traffic, pick
from serve.schemas import ReplicaState, Target

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
RETRIED = frozenset({429, 500, 502, 503})
"""Statuses of a replica that another replica may not share: full, broken, draining."""
RETRY_AFTER_S = 1.0
LAST_WORD_S = 0.5
"""How long the event that ends a broken stream may wait for a client that is slow to read."""


@dataclass(frozen=True, slots=True)
class Forward:
    """One request, ready to be sent."""

    endpoint: Endpoint
    target: Target
    path: str
    body: bytes
    headers: Mapping[str, str]
    sticky: str | None = None
    """The replica that a session's earlier turns went to."""
    settle: Callable[[str], Awaitable[None]] | None = None
    """Told which replica it is before the first byte of its answer goes out."""


class Relay:
    def __init__(self, state: GatewayState, upstream: Upstream, rng: random.Random) -> None:
        self._state = state
        self._upstream = upstream
        self._rng = rng

    async def run(self, exchange: Exchange, forward: Forward) -> None:
        """Answer the exchange.

        Raises a `SwitchboardError` while nothing has been sent, `ClientDisconnected` when the client left.
        """
        timeouts = self._state.settings.timeouts
        async with exchange.until_client_leaves():
            try:
                with Clock(timeouts.total_s) as clock:
                    await self._attempts(exchange, forward, clock)
            except TimeoutError:
                error = DeadlineExceeded("The model did not answer in time.")
                if not exchange.started:
                    raise error from None
                await self._break_off(exchange, forward, error)

    async def _attempts(self, exchange: Exchange, forward: Forward, clock: Clock) -> None:
        tried: list[str] = []
        failure: SwitchboardError | None = None
        while len(tried) < MAX_ATTEMPTS:
            try:
                replica = self._pick(forward, tried)
            except SwitchboardError as error:
                # The first failure says more than "there is nobody else".
                raise failure or error from None
            tried.append(replica.replica_id)
            exchange.served_by = _served_by(forward.target, replica, len(tried))
            failure = await self._attempt(exchange, forward, replica, clock, tried)
            if failure is None:
                return
            logger.warning(
                "attempt failed request=%s model=%s replica=%s reason=%s",
                exchange.request_id,
                forward.target.model,
                replica.replica_id,
                failure.code,
            )
        assert failure is not None
        raise failure

    def _pick(self, forward: Forward, tried: list[str]) -> ReplicaState:
        traffic = Traffic(self._state.in_flight.unreported, tried, forward.sticky)
        return pick(forward.target, self._state.snapshot, self._rng, traffic)

    def _is_last(self, forward: Forward, tried: list[str]) -> bool:
        """Whether there is no other replica to turn to."""
        if len(tried) == MAX_ATTEMPTS:
            return True
        try:
            self._pick(forward, tried)
        except SwitchboardError:
            return True
        return False

    async def _attempt(
        self, exchange: Exchange, forward: Forward, replica: ReplicaState, clock: Clock, tried: list[str]
    ) -> SwitchboardError | None:
        """Try one replica. Returns why it failed if another may be tried, None once the client has its answer."""
        outcome = "ok"
        try:
            with self._state.sending_to(replica.replica_id):
                async with self._upstream.post(
                    replica.url + forward.path, forward.body, forward.headers, clock
                ) as answer:
                    if answer.status >= 400:
                        outcome = f"status_{answer.status}"
                    if answer.status >= 300 and not answer.is_json:
                        return _refused(answer)  # not the manager's words, nor any that a client could read
                    if answer.status in RETRIED and not self._is_last(forward, tried):
                        return _refused(answer)
                    await self._copy(exchange, forward, replica, answer)
                    return None
        except AttemptFailed as failed:
            outcome = failed.outcome
            if exchange.started:
                return None
            return _lost(failed)
        except asyncio.CancelledError:
            outcome = "timeout" if clock.expired else "client_gone"
            raise
        finally:
            metrics.ATTEMPTS.labels(forward.target.model, outcome).inc()

    async def _copy(self, exchange: Exchange, forward: Forward, replica: ReplicaState, answer: Answer) -> None:
        if not answer.streams:
            # Whole before its status is sent: a body that breaks off can still be asked of another replica.
            body = await answer.read(self._state.settings.limits.answer_bytes)
            await _commit(exchange, forward, replica, answer, (b"content-length", str(len(body)).encode()))
            await exchange.body(body, more=False)
            return
        events = WholeEvents()
        try:
            async for chunk in answer.chunks():
                whole = events.feed(chunk)
                if not whole:
                    continue
                if not exchange.started:
                    await _commit(exchange, forward, replica, answer, (b"cache-control", b"no-cache"))
                await exchange.body(whole)
        except AttemptFailed:
            if exchange.started:
                await self._break_off(exchange, forward, EngineFailed("The model broke off its answer."))
            raise
        if not exchange.started:
            raise AttemptFailed("empty", sent=True)
        await exchange.body(events.rest, more=False)

    async def _break_off(self, exchange: Exchange, forward: Forward, error: SwitchboardError) -> None:
        """End a stream that cannot be finished with the one event that says so."""
        last_word = stream_error(error, forward.endpoint.kind, exchange.request_id, exchange.sent_last)
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await exchange.body(last_word, more=False)
        except TimeoutError:
            # What it was sent before fills every buffer on the way: it does not read.
            raise ClientDisconnected from None


async def _commit(
    exchange: Exchange, forward: Forward, replica: ReplicaState, answer: Answer, header: tuple[bytes, bytes]
) -> None:
    """From here on the answer is the client's."""
    if forward.settle is not None:
        await forward.settle(replica.replica_id)
    await exchange.start(answer.status, [*answer.headers, header])


def _served_by(target: Target, replica: ReplicaState, attempts: int) -> list[tuple[bytes, bytes]]:
    adapter = target.adapter.short if target.adapter else "none; reason=not-asked-for"
    return [
        (b"x-switchboard-served-by", f"{target.model}; replica={replica.replica_id}".encode()),
        (b"x-switchboard-adapter", adapter.encode()),
        (b"x-switchboard-attempts", str(attempts).encode()),
    ]


def _refused(answer: Answer) -> SwitchboardError:
    """What the client hears if no other replica takes the request that this one refused."""
    if answer.status == 500:
        return EngineFailed("The model failed on this request.")
    if answer.status in RETRIED:
        return Unavailable("The model cannot take this request right now.", retry_after_s=RETRY_AFTER_S)
    return UpstreamFailed("The model gave no usable answer.")


def _lost(failed: AttemptFailed) -> SwitchboardError:
    if not failed.sent:
        return Unavailable("The model cannot be reached right now.", retry_after_s=RETRY_AFTER_S)
    if failed.outcome in {"malformed", "empty", "too_large"}:
        return UpstreamFailed("The model gave no usable answer.")
    return EngineFailed("The model failed on this request.")
