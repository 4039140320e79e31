from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from serve.errors import ConfigError, NotFound, Unavailable
from serve.store import SCHEMA_VERSION, Store, sessions
from tests.serve.racer import race

ROW = {"id": "sess_0", "bot_type": "support", "created_at": 1.0, "expires_at": 2.0, "metadata_json": "{}"}


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, timeout_s=20)
    yield store
    store.close()


def insert(connection: sa.Connection) -> None:
    connection.execute(sessions.insert().values(ROW))


def count(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(sessions)).scalar_one()


async def test_what_was_written_is_there_after_a_restart(database_url: str) -> None:
    first = Store(database_url)
    await first.run(insert)
    first.close()
    second = Store(database_url)
    assert await second.read(count) == 1
    second.close()


async def test_work_that_raises_leaves_nothing_behind_and_its_error_passes_through(store: Store) -> None:
    def work(connection: sa.Connection) -> None:
        insert(connection)
        raise NotFound("no")

    with pytest.raises(NotFound):
        await store.run(work)
    assert await store.read(count) == 0


async def test_transactions_that_read_and_then_write_do_not_lose_updates(store: Store) -> None:
    await store.run(lambda connection: connection.execute(sessions.insert().values({**ROW, "created_at": 0})))

    def increment(connection: sa.Connection) -> None:
        now = connection.execute(sa.select(sessions.c.created_at).with_for_update()).scalar_one()
        connection.execute(sessions.update().values(created_at=now + 1))

    await asyncio.gather(*(store.run(increment) for _ in range(20)))
    assert await store.read(lambda connection: connection.execute(sa.select(sessions.c.created_at)).scalar()) == 20


async def test_faults_of_the_database_are_unavailable_and_their_text_is_only_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.run(insert)
    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable) as caught:
        await store.run(insert)
    assert "sessions" not in str(caught.value)
    assert caught.value.retry_after_s
    assert caught.value.__suppress_context__
    assert "sessions" in caplog.text
    assert "sess_0" not in caplog.text
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/x", "sqlite:////proc/none/x.db"])
async def test_an_unreachable_database_is_unavailable(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(url)
    with pytest.raises(Unavailable):
        await store.run(insert)
    store.close()
    assert caplog.text
    assert "hunter2" not in caplog.text


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is not a database" * 100)
    store = Store(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(Unavailable):
        await store.run(insert)
    store.close()


async def test_a_database_that_comes_back_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way of the folder")
    store = Store(f"sqlite:///{tmp_path}/state/x.db")
    with pytest.raises(Unavailable):
        await store.run(insert)
    (tmp_path / "state").unlink()
    await store.run(insert)
    store.close()


async def test_too_many_calls_at_once_are_refused_and_the_room_comes_back(sqlite_url: str) -> None:
    store = Store(sqlite_url, pool_size=1, max_pending=2)
    entered, leave = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        entered.set()
        leave.wait()

    running = asyncio.create_task(store.run(hold))
    await asyncio.to_thread(entered.wait)
    waiting = asyncio.create_task(store.read(count))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await store.read(count)
    leave.set()
    await asyncio.gather(running, waiting)
    assert await store.read(count) == 0
    store.close()


async def test_a_call_that_takes_too_long_is_unavailable(sqlite_url: str) -> None:
    store = Store(sqlite_url, timeout_s=0.05)
    leave = threading.Event()
    with pytest.raises(Unavailable):
        await store.run(lambda _: leave.wait())
    leave.set()
    store.close()


async def test_closing_refuses_what_waits_and_what_comes_after(sqlite_url: str) -> None:
    store = Store(sqlite_url, pool_size=1)
    entered, leave = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> str:
        entered.set()
        leave.wait()
        return "done"

    running = asyncio.create_task(store.run(hold))
    await asyncio.to_thread(entered.wait)
    waiting = asyncio.create_task(store.read(count))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(store.close))
    with pytest.raises(Unavailable):
        await waiting
    leave.set()
    assert await running == "done"
    await closing
    with pytest.raises(Unavailable):
        await store.read(count)
    store.close()


async def test_readers_do_not_wait_for_a_writer_on_sqlite(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    await store.run(insert)
    writer = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    writer.execute("BEGIN IMMEDIATE")
    assert await store.read(count) == 1
    writer.close()
    store.close()


async def test_a_database_of_another_version_is_refused(store: Store, database_url: str) -> None:
    await store.run(lambda connection: connection.execute(sa.text("UPDATE schema_version SET version = 99")))
    later = Store(database_url, timeout_s=20)
    for call in (later.check(), later.read(count)):
        with pytest.raises(ConfigError, match=rf"sessions\.store: .*99.*{SCHEMA_VERSION}"):
            await call
    later.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://u:hunter2@h/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "postgresql://u:hunter2@[::1/x",
        "postgresql://u@h:hunter2/x",
    ],
)
def test_other_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sessions\.store: ") as caught:
        Store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_a_check_makes_the_tables(store: Store, database_url: str) -> None:
    await store.check()
    assert await store.read(count) == 0


def test_processes_that_start_together_make_the_tables_once(database_url: str) -> None:
    assert race([[database_url]] * 4) == ["made"] * 4
