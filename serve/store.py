"""What must survive a restart, in SQL: a SQLite file that several processes share, or PostgreSQL.

Statements are SQLAlchemy Core, run by the synchronous drivers in a few threads of the store's own: SQLite has
no other kind, and a session look-up is too short to be worth a second kind of driver.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from serve.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA_VERSION = 1
"""Counts the changes of the tables below. A database of another version is refused."""

_tables = sa.MetaData()

_schema_version = sa.Table("schema_version", _tables, sa.Column("version", sa.Integer, nullable=False))

sessions = sa.Table(
    "sessions",
    _tables,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("bot_type", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
    sa.Column("metadata_json", sa.Text, nullable=False),
    sa.Column("replica_id", sa.Text),
)
"""Times are seconds since the epoch. The metadata is text, not JSON: PostgreSQL's JSON refuses strings that
are legal JSON elsewhere, and nothing here looks inside."""

_SCHEMA_LOCK = 0x53574942  # any number that nothing else in the database locks


class Store:
    """One database, for asyncio. Nothing is connected, and no table made, before the first call.

    `url` is `sqlite:///path` (the folder is made if need be) or `postgresql://…`; anything else is a
    `ConfigError`, and so is, at the first call, a database that another version of the program has made. At
    most `pool_size` calls run at once and `max_pending` wait or run. A call that takes longer than
    `timeout_s`, one too many, and any fault of the database is `Unavailable`: the database's own words go to
    the log only.
    """

    def __init__(self, url: str, pool_size: int = 4, *, timeout_s: float = 5.0, max_pending: int = 1024) -> None:
        self._timeout_s = timeout_s
        self._engine = _engine(_checked(url), pool_size, timeout_s)
        self._executor = ThreadPoolExecutor(pool_size, thread_name_prefix="store")
        self._slots = threading.BoundedSemaphore(max_pending)
        self._schema_lock = threading.Lock()
        self._schema_made = False

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of `work`, called in one transaction that is rolled back if it raises.

        `work` runs in another thread and ends there even when the caller is cancelled.
        """
        return await self._submit(work, read_only=False)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Like `run`, for `work` that changes nothing: on SQLite it does not wait for writers."""
        return await self._submit(work, read_only=True)

    async def check(self) -> None:
        """Make the tables where they are missing, or raise as any first call does."""
        await self.read(lambda connection: None)

    def close(self) -> None:
        """Wait for the calls that run, refuse those that wait, disconnect. May be called twice."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()

    async def _submit(self, work: Callable[[sa.Connection], T], *, read_only: bool) -> T:
        if not self._slots.acquire(blocking=False):
            raise _unavailable()
        try:
            future = self._executor.submit(self._transact, work, read_only)
        except RuntimeError:  # closed
            self._slots.release()
            raise _unavailable() from None
        future.add_done_callback(lambda _: self._slots.release())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            logger.error("The store did not answer within %g s", self._timeout_s)
            raise _unavailable() from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _unavailable() from None  # not this task was cancelled, but the call, by close()

    def _transact(self, work: Callable[[sa.Connection], T], read_only: bool) -> T:
        try:
            self._make_schema()
            with self._engine.connect() as connection:
                connection = connection.execution_options(read_only=read_only)
                with connection.begin():
                    return work(connection)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            logger.error("The store failed: %s", _first_line(error))
            raise _unavailable() from None

    def _make_schema(self) -> None:
        """Once per process; until it succeeds, again at each call."""
        with self._schema_lock:
            if self._schema_made:
                return
            alone = _alone_on_sqlite if self._engine.dialect.name == "sqlite" else _alone_on_postgresql
            with alone(self._engine) as connection:
                _create(connection)
            self._schema_made = True


def _create(connection: sa.Connection) -> None:
    """Make what is missing, while no other process does."""
    _tables.create_all(connection)
    found = connection.execute(sa.select(_schema_version.c.version)).scalar()
    if found is None:
        connection.execute(_schema_version.insert().values(version=SCHEMA_VERSION))
    elif found != SCHEMA_VERSION:
        fault = f"sessions.store: the database has schema version {found}, this program needs {SCHEMA_VERSION}"
        raise ConfigError("The store", (fault,))


def _checked(text: str) -> URL:
    """Messages do not repeat the URL: it may hold a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ConfigError("The store", ("sessions.store: is not a database URL",)) from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise ConfigError("The store", ("sessions.store: must begin with sqlite:/// or postgresql://",))
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError("The store", ("sessions.store: SQLite needs a file, which all processes can share",))
    return url


def _engine(url: URL, pool_size: int, timeout_s: float) -> sa.Engine:
    milliseconds = round(timeout_s * 1000)
    arguments: dict[str, Any] = {"timeout": timeout_s}  # SQLite's busy timeout
    if url.drivername != "sqlite":
        arguments = {
            "connect_timeout": max(2, round(timeout_s)),  # libpq takes no less
            "options": f"-c statement_timeout={milliseconds}",
            "tcp_user_timeout": milliseconds,
        }
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=url.drivername != "sqlite",
        hide_parameters=True,
        connect_args=arguments,
    )
    if url.drivername == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # no BEGIN of the driver's own, see _begin_sqlite
    connection.execute("PRAGMA synchronous=NORMAL")  # with WAL: consistent after a crash, at most the last lost


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock first: a transaction that reads and then writes could not wait for it any more.

    https://www.sqlite.org/isolation.html, SQLITE_BUSY_SNAPSHOT.
    """
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def _alone_on_sqlite(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction on a file that exists and is in WAL mode, with other processes kept out.

    SQLite's own locks do not do: two that change the journal mode of a new file at once fail with "database
    is locked", without waiting (2 in 240 tries with six processes).
    """
    path = Path(engine.url.database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            raw.cursor().execute("PRAGMA journal_mode=WAL")
            with connection.begin():
                yield connection


@contextmanager
def _alone_on_postgresql(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        yield connection


def _first_line(error: Exception) -> str:
    """The cause, without the statement, its parameters or the DETAIL lines, which quote data."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


def _unavailable() -> Unavailable:
    return Unavailable("The store is not available at the moment.", retry_after_s=1.0)
