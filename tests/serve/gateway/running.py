"""What the tests of the gateway talk to, and in what words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
from prometheus_client import REGISTRY

from serve.gateway.app import Gateway
from serve.schemas import AdapterRef, AdapterVersion, Json, Load
from tests.fakes.http_server import PATIENCE_S, listening
from tests.fakes.registry import InProcessRegistry
from tests.fakes.replica import Replica

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
SUPPORT = AdapterRef("demo", "support", "a" * 12)
SALES = AdapterRef("demo", "sales", "b" * 12)
ADAPTERS = tuple(AdapterVersion(ref, current=True, since=1.0) for ref in (SUPPORT, SALES))

Args: TypeAlias = dict[str, Any]


@dataclass
class Running:
    """One gateway with its registry, the replicas behind it, and clients in front."""

    gateway: Gateway
    registry: InProcessRegistry
    url: str
    woken: list[str]
    """Models for which a first replica was asked for."""
    _stack: AsyncExitStack

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def client(self, **headers: str) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=3 * PATIENCE_S)
        client = aiohttp.ClientSession(self.url, headers=headers, timeout=timeout)
        return await self._stack.enter_async_context(client)

    async def replica(self, replica_id: str = "one", load: Load | None = None, **options: Any) -> Replica:
        """A replica that answers, and that the router knows."""
        replica = Replica(replica_id, **options)
        await self._stack.enter_async_context(listening(replica))
        await self.registry.hears(replica.state(adapters=ADAPTERS, load=load))
        return replica


Start: TypeAlias = Callable[..., Awaitable[Running]]


def chat(model: str = "demo", **fields: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": "Hello?"}]} | fields


def message(model: str = "demo", **fields: Any) -> Json:
    return chat(model, max_tokens=16) | fields


def sample(name: str, **labels: str) -> float:
    """A metric of this process, 0 while it has none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
