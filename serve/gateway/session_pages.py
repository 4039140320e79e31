"""`/v1/sessions`: create, read, end."""

from __future__ import annotations

from serve.api.endpoints import Kind, Match
from serve.api.http import json_reply
from serve.api.requests import parse_object
from serve.errors import InvalidRequest, NotFound
from serve.gateway.exchange import Exchange
from serve.gateway.state import GatewayState
from serve.schemas import Json, Session
from serve.sessions import SessionManager

MAX_BODY_BYTES = 64 * 1024
FIELDS = frozenset({"bot_type", "metadata"})


class SessionPages:
    def __init__(self, state: GatewayState, sessions: SessionManager) -> None:
        self._state = state
        self._sessions = sessions

    async def answer(self, exchange: Exchange, match: Match) -> None:
        """Raises a `RequestError`, or `Unavailable` while the store is away."""
        session_id = match.id or ""
        if match.endpoint.kind is Kind.SESSIONS:
            reply = json_reply(200, _shown(await self._create(exchange)))
        elif exchange.scope["method"] == "DELETE":
            await self._sessions.end(session_id)
            reply = json_reply(200, {"id": session_id, "object": "session.deleted", "deleted": True})
        else:
            reply = json_reply(200, _shown(await self._sessions.get(session_id)))
        await exchange.reply(reply)

    async def _create(self, exchange: Exchange) -> Session:
        body = parse_object(await exchange.read(MAX_BODY_BYTES, self._state.settings.timeouts.body_s))
        unknown = sorted(body.keys() - FIELDS)
        if unknown:
            raise InvalidRequest("A session takes bot_type and metadata only.", unknown[0][:100], "unknown_parameter")
        bot_type = body.get("bot_type")
        if not isinstance(bot_type, str) or not bot_type:
            raise InvalidRequest("bot_type is required and must be a string.", "bot_type")
        if bot_type not in self._state.settings.bots:
            raise NotFound("There is no such bot.", "bot_type", "bot_not_found")
        return await self._sessions.create(bot_type, _metadata(body.get("metadata")))


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise InvalidRequest("metadata must be an object of strings.", "metadata")
    return value


def _shown(session: Session) -> Json:
    return {
        "id": session.id,
        "object": "session",
        "bot_type": session.bot_type,
        "created_at": int(session.created_at),
        "expires_at": int(session.expires_at),
        "metadata": session.metadata,
    }
