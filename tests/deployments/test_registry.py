from __future__ import annotations

import asyncio
import logging

import pytest

from deployments.registry import RegistryDeployment
from serve.config import load_args
from serve.errors import ConfigError
from serve.routing.health import Outage
from serve.schemas import ReplicaPhase, ReplicaState
from tests.deployments.conftest import Args

STATE = ReplicaState("one", "http://127.0.0.1:1", ReplicaPhase.READY, ("demo",), capacity=4)
GOOD = {"bots": {"helper": {"model": "demo"}}}
BAD = {"bots": {"helper": {"model": "nobody"}}, "limits": {"body_mib": -1}}


@pytest.fixture
def registry(args: Args, monkeypatch: pytest.MonkeyPatch) -> RegistryDeployment:
    monkeypatch.setattr("deployments.registry.to_serve", lambda: None)  # pytest's own handlers are to stay
    return RegistryDeployment(load_args(args, env={}))


async def test_a_replica_is_told_the_live_settings_once(registry: RegistryDeployment) -> None:
    registry.reconfigure({})
    first = await registry.heartbeat(STATE, live_version="")
    assert first.live is not None
    assert first.live.bots.keys() == {"support", "sales", "plain"}
    assert (await registry.heartbeat(STATE, first.live_version)).live is None
    registry.reconfigure(GOOD)
    changed = await registry.heartbeat(STATE, first.live_version)
    assert changed.live is not None
    assert changed.live.bots.keys() == {"helper"}
    assert (await registry.heartbeat(STATE, changed.live_version)).live is None
    registry.reconfigure({})
    back = await registry.heartbeat(STATE, changed.live_version)
    assert (back.live_version, back.live) == (first.live_version, first.live)


async def test_a_router_hears_the_longest_outage_that_others_told_and_why(registry: RegistryDeployment) -> None:
    await registry.share_outages("one", {"gpt": Outage(30.0), "claude": Outage(5.0)})
    await registry.share_outages("two", {"gpt": Outage(60.0, limited=True)})
    heard = await registry.share_outages("three", {"groq": Outage(90.0)})
    assert heard.keys() == {"gpt", "claude"}
    assert 50 < heard["gpt"].seconds <= 60
    assert heard["gpt"].limited
    assert not heard["claude"].limited
    assert (await registry.share_outages("two", {})).keys() == {"gpt", "claude", "groq"}
    assert (await registry.share_outages("one", {})).keys() == {"groq"}


async def test_another_registry_with_the_same_settings_has_nothing_new_to_say(
    args: Args, registry: RegistryDeployment
) -> None:
    told = await registry.heartbeat(STATE, "")
    other = RegistryDeployment(load_args(args, env={}))
    assert (await other.heartbeat(STATE, told.live_version)).live is None


def test_a_wrong_first_config_stops_the_start(registry: RegistryDeployment) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.reconfigure(BAD)
    assert len(caught.value.faults) == 2


async def test_a_wrong_later_config_changes_nothing(
    registry: RegistryDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    registry.reconfigure(GOOD)
    told = await registry.heartbeat(STATE, "")
    with caplog.at_level(logging.ERROR):
        registry.reconfigure(BAD)
    assert "bots.helper.model" in caplog.text
    assert await registry.heartbeat(STATE, "") == told


async def test_a_router_hears_of_replicas_and_settings(registry: RegistryDeployment) -> None:
    registry.reconfigure({})
    update = await registry.follow("", 0, "")
    assert update.live is not None
    assert update.snapshot.replicas == ()
    following = asyncio.create_task(
        registry.follow(update.snapshot.epoch, update.snapshot.version, update.live_version)
    )
    await asyncio.sleep(0)
    await registry.heartbeat(STATE, update.live_version)
    heard = await following
    assert heard.snapshot.replicas == (STATE,)
    assert heard.live is None
    registry.reconfigure(GOOD)
    told = await registry.follow(heard.snapshot.epoch, heard.snapshot.version, heard.live_version)
    assert told.live is not None
    await registry.leave("one")
    left = await registry.follow(told.snapshot.epoch, told.snapshot.version, told.live_version)
    assert left.snapshot.replicas == ()


async def test_routers_leave_their_metrics_for_each_other(
    registry: RegistryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("deployments.registry.time.monotonic", lambda: now)
    assert await registry.exchange_metrics("one", b"1") == {"one": b"1"}
    now += 20
    assert await registry.exchange_metrics("two", b"2") == {"one": b"1", "two": b"2"}
    now += 20
    assert await registry.exchange_metrics("two", b"3") == {"two": b"3"}  # the first one is gone
    await registry.check_health()
