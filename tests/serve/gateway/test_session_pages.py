"""Conversations: made, read, ended, and kept at one replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from serve.schemas import Json, Load, ReplicaPhase
from tests.fakes import replica as fake
from tests.fakes.http_server import PATIENCE_S, Call
from tests.serve.gateway.running import ADAPTERS, CHAT, SUPPORT, Running, Start, chat

SESSIONS = "/v1/sessions"


async def create(client: aiohttp.ClientSession, **fields: Any) -> Json:
    async with client.post(SESSIONS, json={"bot_type": "support"} | fields) as answer:
        assert answer.status == 200
        session: Json = await answer.json()
        return session


async def test_made_read_and_ended(client: aiohttp.ClientSession) -> None:
    made = await create(client, metadata={"user": "ü"})
    assert made["id"].startswith("sess_")
    assert made["bot_type"] == "support"
    assert made["metadata"] == {"user": "ü"}
    assert made["expires_at"] - made["created_at"] == 86_400
    path = f"{SESSIONS}/{made['id']}"
    async with client.get(path) as answer:
        assert await answer.json() == made
    async with client.delete(path) as answer:
        assert await answer.json() == {"id": made["id"], "object": "session.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        async with client.request(method, path) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "session_not_found"


async def test_only_the_head(client: aiohttp.ClientSession) -> None:
    made = await create(client)
    async with client.head(f"{SESSIONS}/{made['id']}") as answer:
        assert answer.status == 200
        assert await answer.read() == b""


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "bot_type"),
        ({"bot_type": 7}, 400, "bot_type"),
        ({"bot_type": ""}, 400, "bot_type"),
        ({"bot_type": "nobody"}, 404, "bot_type"),
        ({"bot_type": "support", "model": "demo"}, 400, "model"),
        ({"bot_type": "support", "metadata": []}, 400, "metadata"),
        ({"bot_type": "support", "metadata": {"n": 1}}, 400, "metadata"),
        ({"bot_type": "support", "metadata": {"big": "x" * 17_000}}, 400, "metadata"),
        ({"bot_type": "support", "metadata": {"big": "x" * 70_000}}, 413, None),
        ([], 400, None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_is_no_session(client: aiohttp.ClientSession, body: Any, status: int, param: str | None) -> None:
    async with client.post(SESSIONS, json=body) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["param"] == param


async def test_a_session_whose_request_does_not_arrive(start: Start) -> None:
    client = await (await start(timeouts={"body_s": 0.05})).client()
    never_sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await never_sent.wait()

    async with client.post(SESSIONS, data=body()) as answer:
        assert answer.status == 408


async def test_requests_for_sessions_are_bounded_like_others(start: Start) -> None:
    client = await (await start(limits={"max_in_flight": 1})).client()
    sent, goes_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"bot_type": "support"'
        sent.set()
        await goes_on.wait()
        yield b"}"

    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(client.post(SESSIONS, data=body()))
        await sent.wait()
        await eventually_full(client)
        goes_on.set()
    async with held.result() as answer:
        assert answer.status == 200
    await create(client)


async def eventually_full(client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with client.post(SESSIONS, json={"bot_type": "support"}) as answer:
                if answer.status == 429:
                    assert answer.headers["retry-after"] == "1"
                    return


@pytest.mark.parametrize("session_id", ["sess_" + "0" * 32, "sess_1", "x" * 5000, "' OR 1=1 --", "%2e%2e", "\xff"])
async def test_a_session_that_does_not_exist(running: Running, client: aiohttp.ClientSession, session_id: str) -> None:
    replica = await running.replica()
    async with client.post(CHAT, json=chat(), headers={"x-session-id": session_id}) as answer:
        assert answer.status == 404
        told = (await answer.json())["error"]
    assert told["code"] == "session_not_found"
    assert session_id not in told["message"]
    assert replica.calls == []


async def test_its_bot_decides_the_adapter(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    headers = {"x-session-id": (await create(client))["id"]}
    for asked in ("demo", "support", "demo:support"):
        async with client.post(CHAT, json=chat(asked), headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers["x-switchboard-adapter"] == SUPPORT.short
    for call in replica.calls:
        assert call.header("x-switchboard-bot") == "support"
        assert call.header("x-session-id") is None
    for asked in ("sales", "demo:sales", "sleepy"):
        async with client.post(CHAT, json=chat(asked), headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == "model"


async def served_by(client: aiohttp.ClientSession, session: Json, **fields: Any) -> str:
    headers = {"x-session-id": session["id"]}
    async with client.post(CHAT, json=chat("support", **fields), headers=headers) as answer:
        assert answer.status == 200
        await answer.read()
        return answer.headers["x-switchboard-served-by"].removeprefix("demo; replica=")


async def test_its_turns_go_to_one_replica_while_that_is_healthy(
    running: Running, client: aiohttp.ClientSession
) -> None:
    replicas = {name: await running.replica(name) for name in ("one", "two", "three")}
    session = await create(client)
    home = await served_by(client, session)
    # Though it is the busiest by far.
    await running.registry.hears(replicas[home].state(adapters=ADAPTERS, load=Load(in_flight=90)))
    assert {await served_by(client, session) for _ in range(5)} == {home}
    for replica in replicas.values():
        replica.behave = fake.streams(2)
    assert await served_by(client, session, stream=True) == home

    await running.registry.hears(replicas[home].state(ReplicaPhase.DRAINING, ADAPTERS))
    second = await served_by(client, session)
    assert second != home
    # It does not go back.
    await running.registry.hears(replicas[home].state(adapters=ADAPTERS))
    await running.registry.hears(replicas[second].state(adapters=ADAPTERS, load=Load(in_flight=90)))
    assert {await served_by(client, session) for _ in range(5)} == {second}


async def test_the_first_turn_decides_before_its_answer_is_out(running: Running, client: aiohttp.ClientSession) -> None:
    # Else a client that is quick with its second turn would meet another replica.
    for name in ("one", "two", "three", "four"):
        await running.replica(name)
    for _ in range(10):
        session = await create(client)
        assert len({await served_by(client, session) for _ in range(3)}) == 1


async def test_a_home_that_is_full_is_kept_for_the_next_turn(running: Running, client: aiohttp.ClientSession) -> None:
    replicas = {name: await running.replica(name) for name in ("one", "two")}
    session = await create(client)
    home = await served_by(client, session)
    await running.registry.hears(replicas[home].state(adapters=ADAPTERS, load=Load(in_flight=100)))
    assert await served_by(client, session) != home
    await running.registry.hears(replicas[home].state(adapters=ADAPTERS, load=Load(in_flight=90)))
    assert await served_by(client, session) == home


async def test_a_session_that_is_ended_during_its_turn(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    session = await create(client)
    headers = {"x-session-id": session["id"]}

    async def ended_first(call: Call) -> None:
        async with client.delete(f"{SESSIONS}/{session['id']}") as answer:
            assert answer.status == 200
        await fake.streams(2)(call)

    replica.behave = ended_first
    async with client.post(CHAT, json=chat("support", stream=True), headers=headers) as answer:
        assert answer.status == 200
        assert (await answer.read()).endswith(fake.DONE)


async def test_a_bot_that_is_gone_answers_no_more(running: Running, client: aiohttp.ClientSession) -> None:
    await running.replica()
    headers = {"x-session-id": (await create(client))["id"]}
    await running.registry.reconfigure({"bots": {"sales": {"model": "demo", "adapters": ["sales"]}}})
    async with client.post(CHAT, json=chat("demo"), headers=headers) as answer:
        assert answer.status == 404


async def test_a_store_that_is_away_stops_sessions_only(start: Start) -> None:
    running = await start(sessions={"store": "sqlite:////proc/nowhere/state.db"})
    client = await running.client()
    await running.replica()
    async with client.post(SESSIONS, json={"bot_type": "support"}) as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "/proc" not in await answer.text()
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 200
