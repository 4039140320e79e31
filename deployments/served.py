"""What makes a manager a Ray Serve deployment: its address, its heartbeat, its health, its load, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import ray
from ray import serve as rayserve
from ray.serve.handle import DeploymentHandle
from typing_extensions import override

from adapters.manager import AdapterManager, limits_of
from deployments.anthropic_manager import AnthropicManager
from deployments.autoscaling import LOAD_METRIC
from deployments.base_llm_manager import BaseLLMManager
from deployments.garbage import keep_out_of_collections
from deployments.handles import UNANSWERED
from deployments.huggingface_manager import HuggingFaceManager
from deployments.local_manager import LocalManager
from deployments.logs import saying_why_not, to_operator, to_serve
from deployments.manager_app import ManagerApp
from deployments.openai_manager import OpenAIManager
from deployments.process_guard import ProcessGuard
from deployments.registry import HeartbeatReply
from deployments.replica_server import ReplicaServer
from deployments.vitals import Vitals
from serve.config import Manager, Settings, is_loopback
from serve.errors import PROGRESS, ConfigError
from serve.mlops import metrics
from serve.schemas import AdapterRef, Load, ReplicaPhase, ReplicaState
from serve.sessions import SessionManager

logger = logging.getLogger(__name__)

NODE = "node"
"""In `cluster.replica_host`: the address that the replica's node has in the Ray cluster."""
LEAVE_S = 5.0
"""A registry that does not hear the goodbye notices the silence instead."""


class ServedManager(BaseLLMManager):
    """Mixed into a manager class, whose methods stay callable over a Serve handle."""

    # Serve awaits constructors that are coroutines; Python's typing has no word for that.
    async def __init__(  # type: ignore[misc]
        self, manager: Manager, settings: Settings, registry: DeploymentHandle[Any]
    ) -> None:
        to_serve()
        with saying_why_not(", ".join(model.name for model in manager.models)):
            await self._begin(manager, settings, registry)
        keep_out_of_collections()
        self._vitals.phase = ReplicaPhase.READY

    async def _begin(self, manager: Manager, settings: Settings, registry: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._registry = registry
        self._replica_id = rayserve.get_replica_context().replica_id.unique_id
        self._vitals = Vitals()
        self._live_version = ""
        self._guard = ProcessGuard.start()
        self._sessions = SessionManager.from_settings(settings.sessions)
        super().__init__(
            manager.models,
            model_cache_bytes=manager.model_cache_bytes,
            adapter_manager=AdapterManager.from_settings(
                settings, [model.name for model in manager.models], AdapterMetrics()
            ),
            session_manager=self._sessions,
        )
        self._app = ManagerApp(self, settings.cluster.secret.get_secret_value(), settings.limits.body_bytes)
        self._take(settings)
        self._server = ReplicaServer(self._app)
        self._url = self._server.start(_host(settings.cluster.replica_host))
        assert self._server.task is not None
        self._vitals.watch("HTTP server", self._server.task)
        self._heartbeats = asyncio.create_task(self._heartbeat_forever())
        self._vitals.watch("heartbeat", self._heartbeats)
        await self._load(manager)

    async def _load(self, manager: Manager) -> None:
        bound = max(model.timeouts.load_s for model in manager.models)
        limit = asyncio.timeout(bound)
        try:
            async with limit:
                await self.start()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(f"not ready within load_s ({bound:g} s)") from error

    async def wake(self) -> None:
        """Called over a handle when there is no replica: Serve starts one to answer."""

    @override
    async def check_health(self) -> None:
        """Serve replaces the replica after a few failures in a row; the routers leave it out after the first."""
        with self._vitals.examined():
            await super().check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: see `deployments/autoscaling.py`."""
        return {LOAD_METRIC: float(self._app.in_flight)}

    async def __del__(self) -> None:
        """Serve's hook: leave the routers' view, let what is in flight finish, end the engine.

        `graceful_shutdown_timeout_s` bounds the whole of it, from outside.
        """
        self._vitals.phase = ReplicaPhase.DRAINING
        self._app.draining = True
        self._heartbeats.cancel()
        with contextlib.suppress(*UNANSWERED):
            await asyncio.wait_for(self._registry.leave.remote(self._replica_id), LEAVE_S)
        await self._app.idle.wait()
        await self._server.stop()
        await self.close()
        await self._sessions.close()
        await asyncio.to_thread(self._guard.close)

    async def _heartbeat_forever(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._heartbeat(), self._settings.registry.expiry_s)
            except UNANSWERED:
                logger.warning("the registry did not hear this replica's heartbeat; the next one will tell it")
            await asyncio.sleep(self._settings.registry.heartbeat_s)

    async def _heartbeat(self) -> None:
        reply: HeartbeatReply = await self._registry.heartbeat.remote(self._state(), self._live_version)
        self._live_version = reply.live_version
        if reply.live is not None:
            self._take(self._settings.with_live_settings(reply.live))

    def _take(self, settings: Settings) -> None:
        self.configure(settings.models, settings.bots)
        self.adapter_manager.update_limits(limits_of(settings))
        mine = {model.name: model.limits.max_in_flight for model in settings.models if model.name in self.models}
        self._app.limit(settings.limits.body_bytes, mine)

    def _state(self) -> ReplicaState:
        engine = self.load()
        return ReplicaState(
            replica_id=self._replica_id,
            url=self._url,
            phase=self._vitals.shown,
            models=tuple(self.models),
            capacity=self._app.capacity,
            load=Load(self._app.in_flight, engine.running, engine.waiting, engine.kv_cache),
            adapters=self.adapter_manager.versions(),
            resident=self.adapter_manager.resident(),
        )


class ServedLocalManager(ServedManager, LocalManager):
    """`LocalManager` as Serve runs it."""


class ServedHuggingFaceManager(ServedManager, HuggingFaceManager):
    """`HuggingFaceManager` as Serve runs it."""

    @override
    def say(self, line: str) -> None:
        to_operator(f"{PROGRESS} {line}")


class ServedOpenAIManager(ServedManager, OpenAIManager):
    """`OpenAIManager` as Serve runs it."""


class ServedAnthropicManager(ServedManager, AnthropicManager):
    """`AnthropicManager` as Serve runs it."""


class AdapterMetrics:
    """Counts what happens to adapters."""

    def loaded(self, ref: AdapterRef, seconds: float) -> None:
        metrics.ADAPTER_LOADS.labels(ref.model, ref.name).inc()
        metrics.ADAPTER_LOAD_SECONDS.labels(ref.model).observe(seconds)

    def failed(self, ref: AdapterRef) -> None:
        metrics.ADAPTER_FAILURES.labels(ref.model, ref.name).inc()

    def evicted(self, ref: AdapterRef) -> None:
        metrics.ADAPTER_EVICTIONS.labels(ref.model, ref.name).inc()


def _host(host: str) -> str:
    """The address to listen on. Raise `ConfigError` for loopback where routers may run on another machine."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if is_loopback(host) and len(nodes) > 1:
        raise ConfigError(
            "the cluster",
            (f"cluster.replica_host: {host} is out of reach for the other {len(nodes) - 1} node(s); set 'node'",),
        )
    return str(ray.util.get_node_ip_address()) if host == NODE else host  # type: ignore[no-untyped-call]
