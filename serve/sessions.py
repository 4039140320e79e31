"""Conversations: which bot answers, what the client wants kept, which replica their turns go to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict

import sqlalchemy as sa

from serve.config import SessionsConfig
from serve.errors import InvalidRequest, NotFound, Unavailable
from serve.schemas import Json, Session
from serve.store import Store, sessions

_ID = re.compile(r"sess_[0-9a-f]{32}")

# Built once: a turn of a session waits for one of them, and building it costs more than running it.
_ALIVE = sa.and_(sessions.c.id == sa.bindparam("session"), sessions.c.expires_at > sa.bindparam("now"))
_CREATE = sessions.insert()
_GET = sa.select(sessions).where(_ALIVE)
_END = sessions.delete().where(_ALIVE)
_PINNED = sa.select(sessions.c.replica_id).where(_ALIVE)
_PIN = (
    sessions.update()
    .where(_ALIVE)
    .where(sa.or_(sessions.c.replica_id.is_(None), sessions.c.replica_id == sa.bindparam("previous")))
    .values(replica_id=sa.bindparam("replica"))
)
_EXPIRED = (
    sa.select(sessions.c.id)
    .where(sessions.c.expires_at <= sa.bindparam("now"))
    .order_by(sessions.c.expires_at)
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .with_for_update(skip_locked=True)  # PostgreSQL: two purges take different rows; SQLite has one writer
)
_PURGE = sessions.delete().where(sessions.c.id.in_(_EXPIRED))


class SessionManager:
    """Sessions in the store. Each lives for `ttl_s` seconds from its creation, whether it is used or not.

    `max_metadata_bytes` bounds a session's metadata as it is stored: JSON in ASCII. `clock` gives seconds
    since the epoch. Every method raises `Unavailable` when the store does.
    """

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        max_metadata_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._max_metadata_bytes = max_metadata_bytes
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: SessionsConfig) -> SessionManager:
        """With a store of its own, for `close` to disconnect."""
        store = Store(
            settings.store.get_secret_value(),
            settings.store_connections,
            timeout_s=settings.store_timeout_s,
            max_pending=settings.store_max_pending,
        )
        return cls(store, settings.ttl_s, settings.max_metadata_bytes)

    async def check(self) -> None:
        """Raises `ConfigError` if the database is one of another version of the program: no session could ever be had.

        Not for a store that cannot be reached: until it can, each call says so by itself.
        """
        with contextlib.suppress(Unavailable):
            await self._store.check()

    async def close(self) -> None:
        """Close the store, once the calls that run have ended."""
        await asyncio.to_thread(self._store.close)

    async def create(self, bot_type: str, metadata: dict[str, str] | None = None) -> Session:
        """A new session of the bot, which the caller knows to exist.

        Raises `InvalidRequest` (`metadata`) when that is not an object of strings, or too large.
        """
        metadata = {} if metadata is None else metadata
        metadata_json = self._metadata_json(metadata)
        now = self._clock()
        session = Session(
            id=f"sess_{secrets.token_hex(16)}",
            bot_type=bot_type,
            created_at=now,
            expires_at=now + self._ttl_s,
            metadata=dict(metadata),
        )
        row = {
            "id": session.id,
            "bot_type": bot_type,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
            "metadata_json": metadata_json,
        }
        await self._store.run(lambda connection: connection.execute(_CREATE, row))
        return session

    async def get(self, session_id: str) -> Session:
        """Raises `NotFound` (`session_not_found`), alike for one that never was, has ended or expired."""
        alive = self._alive(session_id)
        row = await self._store.read(lambda connection: connection.execute(_GET, alive).one_or_none())
        if row is None:
            raise _not_found()
        return Session(
            id=row.id,
            bot_type=row.bot_type,
            created_at=row.created_at,
            expires_at=row.expires_at,
            metadata=json.loads(row.metadata_json),
            replica_id=row.replica_id,
        )

    async def get_session_context(self, session_id: str) -> Json:
        """`get` as a plain dict: `session_id, bot_type, metadata, created_at, expires_at, replica_id`."""
        context = asdict(await self.get(session_id))
        return {"session_id": context.pop("id"), **context}

    async def end(self, session_id: str) -> None:
        """Raises `NotFound` like `get`."""
        alive = self._alive(session_id)
        ended = await self._store.run(lambda connection: connection.execute(_END, alive).rowcount)
        if not ended:
            raise _not_found()

    async def pin_replica(self, session_id: str, replica_id: str, previous: str | None) -> str:
        """Send the session's turns to `replica_id` from now on, if they still go to `previous` or nowhere.

        Of several routers that do so at once one wins; each is told the winner, which is the replica to use.
        Raises `NotFound` like `get`.
        """
        alive = self._alive(session_id)
        swap = {**alive, "replica": replica_id, "previous": previous}

        def compare_and_set(connection: sa.Connection) -> str | None:
            if connection.execute(_PIN, swap).rowcount:
                return replica_id
            return connection.execute(_PINNED, alive).scalar()

        winner = await self._store.run(compare_and_set)
        if winner is None:
            raise _not_found()
        return winner

    async def purge_expired(self, limit: int) -> int:
        """Delete at most `limit` expired sessions; how many it was. Several processes may do so at once."""
        now = {"now": self._clock(), "limit": limit}
        return await self._store.run(lambda connection: connection.execute(_PURGE, now).rowcount)

    def _alive(self, session_id: str) -> dict[str, object]:
        """The parameters of `_ALIVE`. Refuses what cannot be an id before it costs a query."""
        if not _ID.fullmatch(session_id):
            raise _not_found()
        return {"session": session_id, "now": self._clock()}

    def _metadata_json(self, metadata: object) -> str:
        texts = isinstance(metadata, dict) and all(isinstance(part, str) for pair in metadata.items() for part in pair)
        if not texts:
            raise InvalidRequest("'metadata' must be an object whose values are strings.", "metadata")
        text = json.dumps(metadata)
        if len(text) > self._max_metadata_bytes:
            raise InvalidRequest(f"'metadata' is larger than {self._max_metadata_bytes} bytes.", "metadata")
        return text


def _not_found() -> NotFound:
    """Does not repeat the id: it opens the session to whoever holds it."""
    return NotFound("The session does not exist or has expired.", code="session_not_found")
