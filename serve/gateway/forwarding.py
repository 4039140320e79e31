"""Requests that a model answers: read, check, plan, and hand to the relay."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Sequence
from functools import partial

from serve.api.endpoints import Match
from serve.api.http import MODEL_HEADERS
from serve.api.requests import has_fallbacks_of_its_provider, parse_object, validate
from serve.errors import InvalidRequest, NotFound, Unavailable
from serve.gateway.exchange import Exchange
from serve.gateway.relay import Forward, Relay
from serve.gateway.state import GatewayState
from serve.gateway.upstream import Upstream
from serve.routing.plan import Plan, plan
from serve.schemas import Json, ReplicaPhase, Session
from serve.sessions import SessionManager


class Forwarding:
    def __init__(
        self, state: GatewayState, upstream: Upstream, sessions: SessionManager, wake: Callable[[str], None]
    ) -> None:
        self._state = state
        self._sessions = sessions
        self._wake = wake
        self._relay = Relay(state, upstream, random.Random(), self._wake_if_asleep)

    async def answer(self, exchange: Exchange, match: Match) -> None:
        """Raises a `SwitchboardError` while nothing has been sent."""
        total_s = _total_s(exchange, self._state.settings.timeouts.total_s)
        settings = self._state.settings
        body = await exchange.read(settings.limits.body_bytes, settings.timeouts.body_s)
        request = parse_object(body)
        validate(match.endpoint.kind, request)
        session = await self._session(exchange)
        own = None if has_fallbacks_of_its_provider(match.endpoint.kind, request) else request.get("fallbacks")
        chosen = self._plan(request, session.bot_type if session else None, own)
        exchange.model = chosen.targets[0].model
        forward = Forward(
            endpoint=match.endpoint,
            plan=chosen,
            path=match.endpoint.path,
            body=body,
            headers=_headers(exchange, chosen),
            total_s=total_s,
            sticky=session.replica_id if session else None,
            settle=partial(self._pin, session) if session else None,
        )
        await self._relay.run(exchange, forward)

    def _plan(self, request: Json, bot: str | None, fallbacks: Sequence[str] | None) -> Plan:
        names, snapshot = self._state.names, self._state.snapshot
        try:
            chosen = plan(request["model"], names, snapshot, bot, fallbacks=fallbacks)
        except Unavailable:
            self._wake_if_asleep(request["model"])
            raise
        for skipped in chosen.skipped:
            self._wake_if_asleep(skipped.target)
        return chosen

    async def _session(self, exchange: Exchange) -> Session | None:
        session_id = exchange.headers.get(b"x-session-id")
        if session_id is None:
            return None
        return await self._sessions.get(session_id.decode("latin-1"))

    async def _pin(self, session: Session, replica_id: str) -> None:
        """Keep the session at the replica that serves it, unless the one it had is merely busy.

        The answer is not held up by a store that cannot take this down, or a session that has ended meanwhile.
        """
        if replica_id == session.replica_id or self._is_ready(session.replica_id):
            return
        with contextlib.suppress(Unavailable, NotFound):
            await self._sessions.pin_replica(session.id, replica_id, session.replica_id)

    def _is_ready(self, replica_id: str | None) -> bool:
        return any(
            state.replica_id == replica_id and state.phase is ReplicaPhase.READY
            for state in self._state.snapshot.replicas
        )

    def _wake_if_asleep(self, asked: str) -> None:
        """Have a first replica started for the model behind `asked`, if it has none."""
        bot = self._state.names.bots.get(asked)
        model = bot.model if bot else asked.partition(":")[0]
        names = self._state.names
        if model in names.models and model not in names.unavailable and not self._state.snapshot.replicas_of(model):
            self._wake(model)


def _headers(exchange: Exchange, chosen: Plan) -> dict[str, str]:
    headers = {"x-request-id": exchange.request_id}
    if chosen.bot is not None:
        headers["x-switchboard-bot"] = chosen.bot
    for name in MODEL_HEADERS:
        value = exchange.headers.get(name)
        if value is not None and value.isascii():
            headers[name.decode()] = value.decode("ascii")
    return headers


def _total_s(exchange: Exchange, most_s: float) -> float:
    """How long the request may take: the operator's bound, or a shorter one of the client's own."""
    value = exchange.headers.get(b"x-request-timeout-ms")
    if value is None:
        return most_s
    if not re.fullmatch(rb"[1-9]\d{0,8}", value):
        raise InvalidRequest("'x-request-timeout-ms' must be a whole number of milliseconds.", "x-request-timeout-ms")
    return min(most_s, int(value) / 1000)
