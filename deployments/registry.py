"""The registry's deployment: one replica that hears every manager and tells every router.

It also holds the live part of the settings, given as Serve's `user_config`: routers learn it with their snapshot,
managers with the answer to their heartbeat. Everything here can be lost: managers say it again within a heartbeat, and
routers go on from their last snapshot meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from deployments.logs import to_serve
from serve.config import LiveSettings, Settings
from serve.errors import ConfigError
from serve.gateway.state import Update
from serve.registry import Registry
from serve.routing.health import Outage
from serve.schemas import ReplicaState

logger = logging.getLogger(__name__)

METRICS_EXPIRY_S = 30.0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """`live` is the live part of the settings, None when the replica has it already."""

    live_version: str
    live: LiveSettings | None = None


class RegistryDeployment:
    """What Serve runs under the name `Registry`."""

    def __init__(self, settings: Settings) -> None:
        to_serve()
        self._settings = settings
        self._registry = Registry(expiry_s=settings.registry.expiry_s, rebuild_s=settings.registry.expiry_s)
        self._live = settings.live
        self._live_version = _version(self._live)
        self._configured = False
        self._expositions: dict[str, tuple[float, bytes]] = {}
        self._outages: dict[str, dict[str, tuple[float, Outage]]] = {}

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take a new live part of the settings.

        The first one is refused if it is wrong (`ConfigError`, and the deployment does not start). A later wrong one
        leaves the last good one in force, because a typo must not stop what is running.
        """
        try:
            live = self._settings.with_live(user_config).live
        except ConfigError as error:
            if not self._configured:
                raise
            logger.error("the new user_config is refused, the last one stays in force: %s", error)
            return
        self._configured = True
        self._live, self._live_version = live, _version(live)

    async def heartbeat(self, state: ReplicaState, live_version: str) -> HeartbeatReply:
        """Hear a replica."""
        self._registry.heartbeat(state)
        return HeartbeatReply(self._live_version, None if live_version == self._live_version else self._live)

    async def leave(self, replica_id: str) -> None:
        """A replica is gone and will not be back."""
        self._registry.leave(replica_id)

    async def follow(self, epoch: str, version: int, live_version: str) -> Update:
        """Tell a router the news, waiting for some within a heartbeat."""
        known = version if live_version == self._live_version else 0
        snapshot = await self._registry.wait_for_change(known, self._settings.registry.heartbeat_s, epoch)
        return Update(
            snapshot=snapshot,
            live_version=self._live_version,
            live=None if live_version == self._live_version else self._live,
        )

    async def exchange_metrics(self, router_id: str, exposition: bytes) -> dict[str, bytes]:
        """Keep one router's metrics for the others' `/metrics`, and give all that are fresh."""
        now = time.monotonic()
        self._expositions[router_id] = (now, exposition)
        self._expositions = {
            key: (at, text) for key, (at, text) in self._expositions.items() if now - at < METRICS_EXPIRY_S
        }
        return {key: text for key, (_, text) in self._expositions.items()}

    async def share_outages(self, router_id: str, outages: Mapping[str, Outage]) -> dict[str, Outage]:
        """Keep which models one router leaves out, and give what the others do: of each model, its longest."""
        now = time.monotonic()
        self._outages[router_id] = {model: (now + outage.seconds, outage) for model, outage in outages.items()}
        self._outages = {router: lasting for router, known in self._outages.items() if (lasting := _after(now, known))}
        longest: dict[str, tuple[float, Outage]] = {}
        for router, known in self._outages.items():
            for model, (until, outage) in known.items():
                if router != router_id and until > longest.get(model, (now, outage))[0]:
                    longest[model] = (until, outage)
        return {model: replace(outage, seconds=until - now) for model, (until, outage) in longest.items()}

    async def check_health(self) -> None:
        """Alive as long as it answers."""


def _after(now: float, known: Mapping[str, tuple[float, Outage]]) -> dict[str, tuple[float, Outage]]:
    """Those that are not over."""
    return {model: (until, outage) for model, (until, outage) in known.items() if until > now}


def _version(live: LiveSettings) -> str:
    """The same for the same content, so that a registry that was restarted does not look changed."""
    return hashlib.sha256(live.model_dump_json().encode()).hexdigest()[:12]
