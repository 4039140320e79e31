"""The way from a client to a provider without Ray: gateway, managers and vendors on loopback, each a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deployments.anthropic_manager import AnthropicManager
from deployments.hosted_manager import HostedManager
from deployments.manager_app import ManagerApp
from deployments.openai_manager import OpenAIManager
from serve.config import Settings, load_args
from serve.gateway.app import Gateway
from serve.schemas import Load, ReplicaPhase, ReplicaState
from tests.fakes.http_server import PATIENCE_S, listening
from tests.fakes.registry import InProcessRegistry
from tests.fakes.serving import served
from tests.fakes.vendors import Vendor

SECRET = "the-cluster-s-own-secret"
MANAGERS: dict[str, type[HostedManager]] = {"openai": OpenAIManager, "anthropic": AnthropicManager}
CANARY = "sk-canary-{}-of-the-operator"
STALL_S = 0.3
"""Time that a model has for its first byte, and between two pieces."""


@dataclass
class Hosted:
    """`vendors` by the model that asks there. `spare` takes over where a model has it as its fallback."""

    url: str
    gateway: Gateway
    settings: Settings
    vendors: dict[str, Vendor]
    _stack: AsyncExitStack

    async def client(self, **headers: str) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=3 * PATIENCE_S)
        return await self._stack.enter_async_context(aiohttp.ClientSession(self.url, headers=headers, timeout=timeout))


def model(name: str, provider: str, vendor: Vendor, **more: Any) -> dict[str, Any]:
    base_url = f"{vendor.url}/v1" if provider == "openai" else vendor.url
    dialect = {"endpoints": ["chat", "completion", "embedding", "response"]} if provider == "openai" else {}
    return {
        "name": name,
        "provider": provider,
        "model_id": f"{name}-at-its-vendor",
        "base_url": base_url,
        "api_key": CANARY.format(name),
        "timeouts": {"first_byte_s": STALL_S, "idle_s": STALL_S},
        **dialect,
        **more,
    }


@pytest.fixture
async def hosted(tmp_path: Path) -> AsyncIterator[Hosted]:
    async with AsyncExitStack() as stack:
        vendors = {name: Vendor(f"{name}-at-its-vendor") for name in ("gpt", "claude", "groq", "spare")}
        for vendor in vendors.values():
            await stack.enter_async_context(listening(vendor))
        models = [
            model("gpt", "openai", vendors["gpt"]),
            model("claude", "anthropic", vendors["claude"]),
            model("groq", "openai", vendors["groq"], endpoints=["chat"], length_field="max_tokens"),
            model("spare", "openai", vendors["spare"]),
            model("gpt-safe", "openai", vendors["gpt"], fallback_model="spare"),
            model("claude-safe", "anthropic", vendors["claude"], fallback_models=["spare"]),
        ]
        args = {
            "models": models,
            "cluster": {"secret": SECRET},
            "sessions": {"store": f"sqlite:///{tmp_path}/state.db"},
            "fallback": {"max_wait_s": 0, "failures": 1000},
        }
        settings = load_args(args, env={}, check_paths=False)
        registry = InProcessRegistry(settings)
        gateway = Gateway(settings.without_provider_keys(), registry, "router-1", lambda name: None)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        for name, config in settings.managers().items():
            manager = MANAGERS[config.provider].from_settings(settings, name)
            stack.push_async_callback(manager.close)
            address = await stack.enter_async_context(served(ManagerApp(manager, SECRET, 1 << 20, capacity=100)))
            state = ReplicaState(f"{name}-1", address, ReplicaPhase.READY, (name,), 100, Load())
            await registry.hears(state)
        url = await stack.enter_async_context(served(gateway))
        yield Hosted(url, gateway, settings, vendors, stack)


@pytest.fixture
async def client(hosted: Hosted) -> aiohttp.ClientSession:
    return await hosted.client()
