"""What the gateway answers by itself: the list of models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import asdict

from prometheus_client import generate_latest

from serve.api.endpoints import Kind, Match
from serve.api.http import Reply, json_reply
from serve.api.models import ModelEntry, list_models, one_model
from serve.errors import Unavailable
from serve.gateway.exchange import Exchange
from serve.gateway.state import GatewayState, RegistrySource
from serve.gateway.upstream import AttemptFailed, Upstream
from serve.mlops.exposition import merged
from serve.routing.address import parse
from serve.schemas import Json, ReplicaState

SCRAPE_TIMEOUT_S = 2.0
OWNER = "switchboard"


class Pages:
    def __init__(self, state: GatewayState, upstream: Upstream, source: RegistrySource, router_id: str) -> None:
        self._state = state
        self._upstream = upstream
        self._source = source
        self._router_id = router_id
        self._created = int(time.time())

    async def answer(self, exchange: Exchange, match: Match) -> None:
        match match.endpoint.kind:
            case Kind.MODELS:
                query = exchange.scope.get("query_string", b"")
                reply = json_reply(200, list_models(self._entries(), match.dialect, query))
            case Kind.MODEL:
                name = match.id or ""
                entries = [*self._entries(), *self._version(name)]
                reply = json_reply(200, one_model(entries, name, match.dialect))
            case Kind.READY:
                reply = self._ready()
            case Kind.METRICS:
                reply = await self._metrics()
            case Kind.REPLICAS:
                reply = json_reply(200, self._replicas())
            case _:
                reply = json_reply(200, {"status": "ok"})
        await exchange.reply(reply)  # the HTTP server keeps the body of an answer to HEAD

    def _entries(self) -> list[ModelEntry]:
        """Models, each followed by its adapters; then the bots."""
        settings = self._state.settings
        entries = []
        for model in settings.models:
            entries.append(ModelEntry(model.name, self._created, OWNER, unavailable=model.why_unavailable))
            entries += [
                ModelEntry(f"{model.name}:{adapter.name}", self._created, OWNER, model.name, "adapter")
                for adapter in settings.adapters_of(model.name)
            ]
        bots = [ModelEntry(name, self._created, OWNER, bot.model, "bot") for name, bot in settings.bots.items()]
        return entries + bots

    def _version(self, name: str) -> list[ModelEntry]:
        """A version of an adapter can be asked for, and so be found; it is not listed."""
        address = parse(name)
        if address.adapter is None or address.version is None:
            return []
        self._state.snapshot.resolve_adapter(address.model, address.adapter, address.version)
        return [ModelEntry(name, self._created, OWNER, address.model, "adapter")]

    def _ready(self) -> Reply:
        """200 once every configured model has a live replica, or may have none while nobody asks.

        One that cannot be asked at all is not waited for: it keeps nobody else from being served.
        """
        ready = self._state.snapshot.ready_models()
        waiting = [
            model.name
            for model in self._state.settings.models
            if model.name not in ready and model.autoscaling.min_replicas > 0 and model.why_unavailable is None
        ]
        payload: Json = {"status": "waiting" if waiting else "ready", "waiting_for": waiting}
        unavailable = {model.name: model.why_unavailable for model in self._state.settings.models}
        if any(unavailable.values()):
            payload["unavailable"] = {model: why for model, why in unavailable.items() if why}
        return json_reply(503 if waiting else 200, payload, [(b"retry-after", b"1")] if waiting else [])

    def _replicas(self) -> Json:
        """What this router knows: every replica, and every model with its circuit breaker's state."""
        snapshot, breakers = self._state.snapshot, self._state.breakers.states()
        return {
            "router": self._router_id,
            "snapshot_age_s": round(self._state.snapshot_age_s, 3),
            "models": [
                {
                    "name": model.name,
                    "provider": model.provider,
                    "unavailable": model.why_unavailable,
                    "replicas": len(snapshot.replicas_of(model.name)),
                    "breaker": breakers.get(model.name, "closed") if model.is_remote else None,
                    "left_out_for_s": round(self._state.breakers.left_out_for(model.name), 1),
                    "fallback_models": list(model.fallback_models),
                }
                for model in self._state.settings.models
            ],
            "replicas": [_shown(state) for state in snapshot.replicas],
        }

    async def _metrics(self) -> Reply:
        """Every router's and every replica's metrics, told apart by the label `replica`."""
        own = {self._router_id: generate_latest()}
        try:
            routers = await self._source.exchange_metrics(self._router_id, own[self._router_id])
        except Unavailable:
            routers = own
        managers = await asyncio.gather(
            *(self._scrape(state.replica_id, state.url) for state in self._state.snapshot.replicas)
        )
        # Pages may be many and long, and streams must not wait for them.
        body = await asyncio.to_thread(merged, [*routers.items(), *_present(managers)])
        return Reply(200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], body)

    async def _scrape(self, replica_id: str, url: str) -> tuple[str, bytes] | None:
        try:
            return replica_id, await self._upstream.get(url, "/metrics", SCRAPE_TIMEOUT_S)
        except AttemptFailed:
            return None


def _shown(state: ReplicaState) -> Json:
    return {
        "id": state.replica_id,
        "models": list(state.models),
        "phase": state.phase,
        "address": state.url,
        "capacity": state.capacity,
        "load": asdict(state.load),
        "resident_adapters": sorted(state.resident),
    }


def _present(pages: Iterable[tuple[str, bytes] | None]) -> list[tuple[str, bytes]]:
    return [page for page in pages if page is not None]
