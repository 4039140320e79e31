from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from serve.config import SessionsConfig
from serve.errors import ConfigError, InvalidRequest, NotFound, Unavailable
from serve.sessions import SessionManager
from serve.store import Store
from tests.serve.racer import race

UNKNOWN = "sess_" + "0" * 32
JUNK = ["", "sess_", UNKNOWN + "\n", UNKNOWN.upper(), "sess_" + "g" * 32, "x" * 10**6]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, timeout_s=20)
    yield store
    store.close()


@pytest.fixture
def manager(store: Store, clock: Clock) -> SessionManager:
    return SessionManager(store, ttl_s=60, max_metadata_bytes=256, clock=clock)


async def test_a_database_of_another_version_is_found_by_a_check(
    manager: SessionManager, store: Store, database_url: str
) -> None:
    await manager.check()
    await store.run(lambda connection: connection.execute(sa.text("UPDATE schema_version SET version = 99")))
    later = SessionManager(Store(database_url, timeout_s=20), ttl_s=60, max_metadata_bytes=256)
    with pytest.raises(ConfigError, match=r"sessions\.store"):
        await later.check()
    await later.close()


async def test_a_store_that_cannot_be_reached_passes_the_check_and_is_unavailable_after() -> None:
    manager = SessionManager(Store("sqlite:////proc/none/x.db"), ttl_s=60, max_metadata_bytes=256)
    await manager.check()
    with pytest.raises(Unavailable):
        await manager.create("support")
    await manager.close()


async def test_a_session_keeps_what_it_was_created_with(manager: SessionManager) -> None:
    session = await manager.create("support", {"user": "ü\n'\x00\ud800", "": ""})
    assert re.fullmatch("sess_[0-9a-f]{32}", session.id)
    assert (session.created_at, session.expires_at) == (1_000_000.0, 1_000_060.0)
    assert await manager.get(session.id) == session


async def test_its_context_is_a_plain_dict(manager: SessionManager) -> None:
    session = await manager.create("support")
    assert await manager.get_session_context(session.id) == {
        "session_id": session.id,
        "bot_type": "support",
        "metadata": {},
        "created_at": session.created_at,
        "expires_at": session.expires_at,
        "replica_id": None,
    }


async def test_two_sessions_are_two(manager: SessionManager) -> None:
    one, other = await manager.create("support"), await manager.create("sales")
    await manager.end(one.id)
    assert await manager.get(other.id) == other


async def gone(manager: SessionManager, session_id: str) -> None:
    """Every use of it says so, in the same way."""
    for use in (
        manager.get(session_id),
        manager.get_session_context(session_id),
        manager.pin_replica(session_id, "r1", None),
        manager.end(session_id),
    ):
        with pytest.raises(NotFound) as caught:
            await use
        assert caught.value.code == "session_not_found"
        assert session_id not in str(caught.value) or not session_id


async def test_an_ended_session_is_not_found(manager: SessionManager) -> None:
    session = await manager.create("support")
    await manager.end(session.id)
    await gone(manager, session.id)


async def test_an_expired_session_is_not_found_from_the_moment_it_expires(
    manager: SessionManager, clock: Clock
) -> None:
    session = await manager.create("support")
    clock.now = session.expires_at - 0.001
    await manager.get(session.id)
    clock.now = session.expires_at
    await gone(manager, session.id)


async def test_an_unknown_session_is_not_found(manager: SessionManager) -> None:
    await gone(manager, UNKNOWN)


@pytest.mark.parametrize("junk", ["", "sess_", UNKNOWN + "\n", UNKNOWN.upper(), "sess_" + "g" * 32, "x" * 10**6])
async def test_what_cannot_be_an_id_is_not_found_without_a_query(sqlite_url: str, junk: str) -> None:
    closed = Store(sqlite_url)
    closed.close()
    manager = SessionManager(closed, ttl_s=60, max_metadata_bytes=256)
    await gone(manager, junk)
    with pytest.raises(Unavailable):
        await manager.get(UNKNOWN)


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": None}, {"a": {}}, {1: "a"}, {"a": "x" * 300}])
async def test_metadata_of_other_types_or_too_large_is_refused(
    manager: SessionManager, metadata: dict[Any, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await manager.create("support", metadata)
    assert caught.value.param == "metadata"


@pytest.mark.parametrize("metadata", ["text", 7, [["a", "b"]], [1]])
async def test_metadata_that_is_no_object_is_refused(manager: SessionManager, metadata: Any) -> None:
    with pytest.raises(InvalidRequest):
        await manager.create("support", metadata)


async def test_the_size_of_metadata_is_counted_in_bytes(manager: SessionManager) -> None:
    await manager.create("support", {"a": "x" * (256 - len('{"a": ""}'))})
    with pytest.raises(InvalidRequest):
        await manager.create("support", {"a": "x" * (257 - len('{"a": ""}'))})


async def test_the_first_pin_wins_and_later_ones_learn_of_it(manager: SessionManager) -> None:
    session = await manager.create("support")
    assert await manager.pin_replica(session.id, "r1", None) == "r1"
    assert await manager.pin_replica(session.id, "r2", None) == "r1"
    assert (await manager.get(session.id)).replica_id == "r1"


async def test_a_pin_moves_only_from_where_the_router_believed_it_to_be(manager: SessionManager) -> None:
    session = await manager.create("support")
    await manager.pin_replica(session.id, "r1", None)
    assert await manager.pin_replica(session.id, "r2", "r1") == "r2"
    assert await manager.pin_replica(session.id, "r3", "r1") == "r2"


async def test_a_purge_deletes_the_expired_and_no_more_than_asked(manager: SessionManager, clock: Clock) -> None:
    for _ in range(3):
        await manager.create("support")
    clock.now += 60
    living = await manager.create("support")
    assert await manager.purge_expired(2) == 2
    assert await manager.purge_expired(2) == 1
    assert await manager.purge_expired(2) == 0
    assert await manager.get(living.id) == living


def test_any_junk_is_not_found(sqlite_url: str) -> None:
    closed = Store(sqlite_url)
    closed.close()
    manager = SessionManager(closed, ttl_s=60, max_metadata_bytes=256)

    @given(st.text())
    def check(junk: str) -> None:
        with pytest.raises(NotFound):
            asyncio.run(manager.get(junk))

    check()


async def test_of_several_processes_one_pins_and_all_are_told(database_url: str, store: Store) -> None:
    manager = SessionManager(store, ttl_s=60, max_metadata_bytes=256)
    session = await manager.create("support")
    racers = [[database_url, session.id, f"r{index}"] for index in range(4)]
    winners = await asyncio.to_thread(race, racers)
    assert set(winners) == {(await manager.get(session.id)).replica_id}


async def test_it_is_made_from_settings_with_a_store_of_its_own(sqlite_url: str) -> None:
    settings = SessionsConfig.model_validate({"store": sqlite_url, "ttl_s": 60, "max_metadata_bytes": 20})
    manager = SessionManager.from_settings(settings)
    session = await manager.create("support", {"user": "42"})
    assert session.expires_at - session.created_at == 60
    with pytest.raises(InvalidRequest):
        await manager.create("support", {"user": "x" * 20})
    await manager.close()
    with pytest.raises(Unavailable):
        await manager.get(session.id)
