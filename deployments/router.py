"""The router's deployment: the gateway behind Serve's ingress, fed from the registry over a handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import serve as rayserve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from deployments.garbage import keep_out_of_collections
from deployments.handles import UNANSWERED
from deployments.ingress import answer_with
from deployments.logs import saying_why_not, to_serve
from serve.api.http import ASGIApp
from serve.config import Settings, is_loopback
from serve.errors import ConfigError, Unavailable, first_line
from serve.gateway.app import Gateway, WithoutRequestId
from serve.gateway.state import Update
from serve.routing.health import Outage
from serve.tasks import why_ended

logger = logging.getLogger(__name__)


class RegistryHandle:
    """The registry over a Serve handle."""

    def __init__(self, handle: DeploymentHandle[Any], timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def follow(self, epoch: str, version: int, live_version: str) -> Update:
        update: Update = await self._answer(self._handle.follow, epoch, version, live_version)
        return update

    async def exchange_metrics(self, router_id: str, exposition: bytes) -> dict[str, bytes]:
        expositions: dict[str, bytes] = await self._answer(self._handle.exchange_metrics, router_id, exposition)
        return expositions

    async def share_outages(self, router_id: str, outages: Mapping[str, Outage]) -> dict[str, Outage]:
        others: dict[str, Outage] = await self._answer(self._handle.share_outages, router_id, outages)
        return others

    async def _answer(self, method: DeploymentHandle[Any], *arguments: object) -> Any:
        try:
            return await asyncio.wait_for(method.remote(*arguments), self._timeout_s)
        except UNANSWERED as error:
            raise Unavailable("The registry does not answer.") from error


@rayserve.ingress()
class Router:
    """What Serve runs under the name `Router`. `managers` are the managers' handles, by model."""

    def __init__(
        self,
        settings: Settings,
        registry: DeploymentHandle[Any],
        managers: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        to_serve()
        with saying_why_not("a router"):
            _refuse_open_door(settings)
            self._managers = managers
            self._waking: dict[str, asyncio.Future[None]] = {}
            self._gateway = Gateway(
                settings,
                RegistryHandle(registry, timeout_s=settings.registry.expiry_s),
                router_id=rayserve.get_replica_context().replica_id.unique_id,
                wake=self._wake,
            )
        answer_with(self._gateway)
        keep_out_of_collections()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve asks, with a middleware around it that says the request's id."""
        return WithoutRequestId(self._gateway)

    def _wake(self, model: str) -> None:
        """Have Serve start a first replica: a call that waits for one is what its autoscaler looks at."""
        waking = self._waking.get(model)
        if waking is None or waking.done():
            waking = self._waking[model] = asyncio.ensure_future(self._managers[model].wake.remote())
            waking.add_done_callback(partial(_report, model))

    async def check_health(self) -> None:
        """Serve replaces the router after a few failures in a row."""
        self._gateway.check_health()


def _report(model: str, waking: asyncio.Future[None]) -> None:
    if (error := why_ended(waking)) is not None:
        logger.warning("no replica of '%s' could be woken: %s", model, first_line(error))


def _refuse_open_door(settings: Settings) -> None:
    """Without client keys, only this machine may call. Serve's HTTP options are no part of `args`, so ask Serve."""
    client = _get_global_client()
    assert client is not None  # a replica runs inside Serve
    host = client.http_config.host
    if not is_loopback(host) and not settings.auth.key_digests:
        raise ConfigError(
            "serve_config.yaml",
            (f"http_options.host: {host} is open to others, and auth.keys is empty: anybody could use the models",),
        )
