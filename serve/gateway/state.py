"""What one router knows: the settings in force, the registry's last snapshot, and its own requests in flight."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from serve.config import LiveSettings, ModelConfig, Settings
from serve.errors import AT_CAPACITY, NO_CREDIT, REFUSED_KEY, Unavailable
from serve.mlops import metrics
from serve.registry import Snapshot, merge
from serve.routing.fallback import Failure, is_outage
from serve.routing.health import BreakerPolicy, Breakers, Outage
from serve.routing.inflight import InFlight
from serve.routing.plan import Names
from serve.schemas import ReplicaPhase

logger = logging.getLogger(__name__)

RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Update:
    """The registry's answer to a router. `live` is the live part of the settings, None when it has not changed."""

    snapshot: Snapshot
    live_version: str
    live: LiveSettings | None = None


class RegistrySource(Protocol):
    """The registry as a router sees it. Both raise `Unavailable` while it is not there."""

    async def follow(self, epoch: str, version: int, live_version: str) -> Update:
        """Wait, within a bound, for news after `version` of the registry's life `epoch`."""

    async def exchange_metrics(self, router_id: str, exposition: bytes) -> dict[str, bytes]:
        """Leave this router's metrics and take every router's."""

    async def share_outages(self, router_id: str, outages: Mapping[str, Outage]) -> dict[str, Outage]:
        """Say which models this router leaves out, and hear the same of all others."""


class GatewayState:
    """Shared by all requests of one router; touched from its event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings
        self.settings = settings
        self.models = _models(settings)
        self.names = _names(settings)
        self.snapshot = Snapshot(epoch="", version=0, rebuilding=True, replicas=())
        self._live_version = ""
        self.in_flight = InFlight()
        self.breakers = Breakers(time.monotonic)
        self._heard_at = time.monotonic()

    async def follow(self, source: RegistrySource) -> None:
        """Keep up with the registry for as long as the router lives; while it is away, the last snapshot stands."""
        pause = RETRY_MIN_S
        while True:
            try:
                update = await source.follow(self.snapshot.epoch, self.snapshot.version, self._live_version)
            except Unavailable:
                logger.warning("the registry does not answer; requests go on from the last snapshot")
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(RETRY_MAX_S, pause * 2)
                continue
            pause = RETRY_MIN_S
            self.apply(update)

    def apply(self, update: Update) -> None:
        self._heard_at = time.monotonic()
        self.snapshot = merge(self.snapshot, update.snapshot)
        self.in_flight.observe(self.snapshot)
        if update.live is not None:
            self.settings = self._base.with_live_settings(update.live)
            self.models = _models(self.settings)
            self.names = _names(self.settings)
        self._live_version = update.live_version
        for model in self.settings.models:
            ready = sum(r.phase is ReplicaPhase.READY for r in self.snapshot.replicas_of(model.name))
            metrics.LIVE_REPLICAS.labels(model.name).set(ready)

    @contextmanager
    def sending_to(self, replica_id: str) -> Iterator[None]:
        """Count one request to a replica, so that the next pick sees it before any heartbeat does."""
        self.in_flight.start(replica_id)
        try:
            yield
        finally:
            self.in_flight.finish(replica_id)

    def answers(self, model: str, began: float) -> None:
        """Let the model's circuit breaker know that the answer to an attempt has begun."""
        if (config := self.models.get(model)) is not None and config.is_remote:
            self.breakers.answers(model, began)

    def note_attempt(self, model: str, outcome: str, failure: Failure | None, began: float) -> None:
        """Let the model's circuit breaker know how an attempt ended that began then, by `time.monotonic`.

        Only for what runs elsewhere: of engines of ours the registry knows more, and a request that breaks one must not
        keep all others from it.
        """
        config = self.models.get(model)
        if config is None or not config.is_remote:
            return
        policy = self.settings.fallback
        if failure is None and outcome == "ok":
            self.breakers.succeeded(model, began)
        elif failure is None or not failure.sent or failure.code == AT_CAPACITY:
            self.breakers.said_nothing(model, began)
        elif failure.code == REFUSED_KEY:
            self.breakers.leave_out(model, policy.open_s)
        elif failure.code == NO_CREDIT:
            self.breakers.leave_out(model, policy.open_s, limited=True)
        elif failure.status == 429 and failure.retry_after_s:
            self.breakers.leave_out(model, min(failure.retry_after_s, policy.max_open_s), limited=True)
        elif is_outage(failure):
            self.breakers.failed(model, began, BreakerPolicy(policy.failures, policy.open_s, policy.max_open_s))
        else:
            self.breakers.said_nothing(model, began)

    @property
    def snapshot_age_s(self) -> float:
        return time.monotonic() - self._heard_at


def _models(settings: Settings) -> dict[str, ModelConfig]:
    return {model.name: model for model in settings.models}


def _names(settings: Settings) -> Names:
    return Names(
        models=frozenset(model.name for model in settings.models),
        bots=settings.bots,
        fallbacks={model.name: model.fallback_models for model in settings.models},
        unavailable={model.name: model.why_unavailable for model in settings.models if model.why_unavailable},
        adapters=frozenset((adapter.model, adapter.name) for adapter in settings.adapters),
    )
