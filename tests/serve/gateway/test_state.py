"""What a router goes by while the registry and the settings change under it."""

from __future__ import annotations

import aiohttp
import pytest

from tests.fakes import replica as fake
from tests.serve.gateway.running import ADAPTERS, CHAT, Running, Start, chat


async def status(client: aiohttp.ClientSession, model: str = "demo") -> int:
    async with client.post(CHAT, json=chat(model)) as answer:
        await answer.read()
        return answer.status


# The registry.


async def test_requests_go_on_while_the_registry_is_away(running: Running, client: aiohttp.ClientSession) -> None:
    one, two = await running.replica("one"), await running.replica("two")
    await running.registry.goes_away()
    assert [await status(client) for _ in range(4)] == [200] * 4
    assert running.gateway.state.snapshot_age_s >= 0
    # A registry that has come back empty takes nobody away.
    await running.registry.comes_back()
    assert {state.replica_id for state in running.gateway.state.snapshot.replicas} == {"one", "two"}
    assert await status(client, "support") == 200
    # It hears one replica again; the other one says that it has left.
    await running.registry.hears(one.state(adapters=ADAPTERS))
    assert len(running.gateway.state.snapshot.replicas) == 2
    await running.registry.loses("two")
    assert [state.replica_id for state in running.gateway.state.snapshot.replicas] == ["one"]
    before = len(two.calls)
    assert [await status(client) for _ in range(4)] == [200] * 4
    assert len(two.calls) == before


async def test_a_replica_that_comes_and_one_that_goes(running: Running, client: aiohttp.ClientSession) -> None:
    assert await status(client) == 503
    await running.replica("one")
    assert await status(client) == 200
    await running.registry.loses("one")
    assert await status(client) == 503


async def test_requests_of_this_router_count_before_any_heartbeat(
    running: Running, client: aiohttp.ClientSession
) -> None:
    replicas = [await running.replica(name, capacity=2) for name in ("one", "two")]
    for replica in replicas:
        replica.behave = fake.stalls_after(1)
    held = [await client.post(CHAT, json=chat(stream=True)) for _ in range(4)]
    assert [len(replica.calls) for replica in replicas] == [2, 2]
    assert await status(client) == 429
    for answer in held:
        answer.close()
    for replica in replicas:
        for call in replica.calls:
            await call.until_gone()
        replica.behave = fake.answers(fake.COMPLETION)
    assert await status(client) == 200


# Settings that change live.


async def test_bots_change_live(running: Running, client: aiohttp.ClientSession) -> None:
    await running.replica()
    assert await status(client, "support") == 200
    assert await status(client, "helper") == 404
    await running.registry.reconfigure({"bots": {"helper": {"model": "demo", "adapters": ["sales"]}}})
    assert await status(client, "support") == 404
    async with client.post(CHAT, json=chat("helper")) as answer:
        assert answer.headers["x-switchboard-adapter"].startswith("sales@")
    async with client.get("/v1/models") as answer:
        names = [card["id"] for card in (await answer.json())["data"]]
    assert names == ["demo", "demo:support", "demo:sales", "sleepy", "helper"]
    await running.registry.reconfigure({})
    assert await status(client, "support") == 200


async def test_limits_change_live(start: Start) -> None:
    running = await start(limits={"max_in_flight": 1, "body_mib": 0.001})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.stalls_after(1)
    one = await client.post(CHAT, json=chat(stream=True))
    assert await status(client) == 429
    await running.registry.reconfigure({"limits": {"max_in_flight": 3, "body_mib": 1}})
    two = await client.post(CHAT, json=chat(stream=True))
    replica.behave = fake.answers(fake.COMPLETION)
    async with client.post(CHAT, json=chat(user="x" * 5000)) as answer:
        assert answer.status == 200
    for answer in (one, two):
        assert answer.status == 200
        answer.close()


async def test_a_task_that_ends_does_not_do_so_in_silence(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("serve.gateway.state.GatewayState.follow", fails)
    running = await start()
    client = await running.client()
    async with client.get("/health"):
        pass
    assert "a task of the gateway has ended" in caplog.text
    assert "a fault of ours" in caplog.text
