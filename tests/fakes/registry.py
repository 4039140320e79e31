"""The registry in the test's own process, as a router follows it; it can be away, and it can be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serve.config import LiveSettings, Settings
from serve.errors import Unavailable
from serve.gateway.state import Update
from serve.registry import Registry, Snapshot
from serve.routing.health import Outage
from serve.schemas import ReplicaState
from tests.fakes.http_server import PATIENCE_S

LONG_S = 600.0
"""Nothing in a test happens because time went by."""


class InProcessRegistry:
    """A `RegistrySource` around the real registry, called directly where Serve would put a handle.

    What a test does to it returns once the router knows.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry = _fresh()
        self._live: LiveSettings = settings.live
        self._live_version = 1
        self._away = False
        self._known: tuple[str, int, str] = ("", 0, "")
        self._polled = asyncio.Condition()
        self.expositions: dict[str, bytes] = {}
        self.outages: dict[str, dict[str, Outage]] = {}

    # What a router calls.

    async def follow(self, epoch: str, version: int, live_version: str) -> Update:
        async with self._polled:
            self._known = (epoch, version, live_version)
            self._polled.notify_all()
        self._raise_if_away()
        registry = self._registry
        stale = live_version != str(self._live_version)
        snapshot = await registry.wait_for_change(0 if stale else version, LONG_S, epoch)
        if registry is not self._registry:
            raise Unavailable("The registry does not answer.")
        stale = live_version != str(self._live_version)
        return Update(snapshot, str(self._live_version), self._live if stale else None)

    async def exchange_metrics(self, router_id: str, exposition: bytes) -> dict[str, bytes]:
        self._raise_if_away()
        self.expositions[router_id] = exposition
        return dict(self.expositions)

    async def share_outages(self, router_id: str, outages: Mapping[str, Outage]) -> dict[str, Outage]:
        self._raise_if_away()
        self.outages[router_id] = dict(outages)
        return {
            model: outage for router, of in self.outages.items() if router != router_id for model, outage in of.items()
        }

    # What a test calls.

    async def hears(self, *states: ReplicaState) -> None:
        for state in states:
            self._registry.heartbeat(state)
        await self._until_router_knows()

    def snapshot(self) -> Snapshot:
        return self._registry.snapshot()

    async def loses(self, replica_id: str) -> None:
        self._registry.leave(replica_id)
        await self._until_router_knows()

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        self._live = self._settings.with_live(user_config).live
        self._live_version += 1
        self._wake_poll()
        await self._until_router_knows()

    async def goes_away(self) -> None:
        """As a killed process: the poll that is open fails, and so does each one after it."""
        self._away = True
        former, self._registry = self._registry, _fresh()
        former.leave("nobody")

    async def comes_back(self) -> None:
        """As a new process that has heard nobody yet."""
        self._away = False
        await self._until_router_knows()

    def _wake_poll(self) -> None:
        self._registry.leave(f"nobody-{self._live_version}")

    async def _until_router_knows(self) -> None:
        snapshot = self._registry.snapshot()
        current = (snapshot.epoch, snapshot.version, str(self._live_version))
        async with asyncio.timeout(PATIENCE_S), self._polled:
            await self._polled.wait_for(lambda: self._known == current)

    def _raise_if_away(self) -> None:
        if self._away:
            raise Unavailable("The registry does not answer.")


def _fresh() -> Registry:
    return Registry(expiry_s=LONG_S, rebuild_s=LONG_S)
