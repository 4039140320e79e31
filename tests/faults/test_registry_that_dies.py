"""Without the registry, requests go on from the last snapshot; a new one is told everything again."""

from __future__ import annotations

import pytest

from tests.live.asking import Client
from tests.live.eventually import eventually
from tests.live.running import Switchboard
from tests.live.watching import live, whole

pytestmark = pytest.mark.engine

REBUILT_S = 60.0
HEARD_S = 2.0
"""A router that follows the registry hears from it within a heartbeat."""


async def test_requests_go_on_and_it_rebuilds(client: Client, switchboard: Switchboard) -> None:
    await whole(client, switchboard)
    (old, registry) = next(iter((await switchboard.replicas("Registry")).items()))
    registry.kill()

    async def rebuilt() -> bool:
        answer = await client.chat("support", "Hello", max_tokens=3)
        assert answer.status == 200, answer.body
        assert (await client.get("/ready")).status == 200
        new = await switchboard.replicas("Registry")
        return bool(new) and old not in new and await live(client) and await _heard(client)

    await eventually(rebuilt, REBUILT_S, "a new registry knows all replicas")


async def _heard(client: Client) -> bool:
    ages = (await client.metrics()).samples("switchboard_registry_snapshot_age_seconds")
    return all(sample.value < HEARD_S for sample in ages)
