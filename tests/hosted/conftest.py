"""The way from a client to a provider without Ray: gateway, managers and vendors on loopback, each a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from deployments.anthropic_manager import AnthropicManager
from deployments.base_llm_manager import BaseLLMManager
from deployments.local_manager import LocalManager
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
MANAGERS: dict[str, type[BaseLLMManager]] = {
    "openai": OpenAIManager,
    "anthropic": AnthropicManager,
    "local": LocalManager,
}
CANARY = "sk-canary-{}-of-the-operator"


@dataclass
class Hosted:
    """`vendors` by the model that asks there; `far` is a `local` model at a `base_url`.

    `spare` takes over where a model has it as its fallback.
    """

    url: str
    gateway: Gateway
    settings: Settings
    registry: InProcessRegistry
    woken: list[str]
    """Models for which a first replica was asked for."""
    vendors: dict[str, Vendor]
    managers: dict[str, ManagerApp]
    _stack: AsyncExitStack

    async def client(self, **headers: str) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=3 * PATIENCE_S)
        return await self._stack.enter_async_context(aiohttp.ClientSession(self.url, headers=headers, timeout=timeout))


def model(name: str, provider: str, vendor: Vendor, **more: Any) -> dict[str, Any]:
    base_url = vendor.url if provider == "anthropic" else f"{vendor.url}/v1"
    dialect = {"endpoints": ["chat", "completion", "embedding", "response"]} if provider == "openai" else {}
    return {
        "name": name,
        "provider": provider,
        "model_id": f"{name}-at-its-vendor",
        "base_url": base_url,
        "api_key": CANARY.format(name),
        **dialect,
        **more,
    }


class StartHosted(Protocol):
    """Starts everything, with these sections of `args` in place of the usual ones.

    `first_byte_s` and `idle_s` are the patience with all models but `spare`.
    """

    async def __call__(
        self, *, first_byte_s: float = PATIENCE_S, idle_s: float = PATIENCE_S, **sections: object
    ) -> Hosted: ...


def _models(vendors: dict[str, Vendor], timeouts: dict[str, float]) -> list[dict[str, Any]]:
    keyless = {"base_url": f"{vendors['gpt'].url}/v1", "api_key": "${OPENAI_KEY_NOT_SET}"}
    models = [
        model("gpt", "openai", vendors["gpt"]),
        model("claude", "anthropic", vendors["claude"]),
        model("groq", "openai", vendors["groq"], endpoints=["chat"], length_field="max_tokens"),
        model("gpt-safe", "openai", vendors["gpt"], fallback_model="spare"),
        model("claude-safe", "anthropic", vendors["claude"], fallback_models=["spare"]),
        model("far", "local", vendors["far"]),
        model("keyless", "openai", vendors["gpt"]) | keyless,
        model("keyless-safe", "openai", vendors["gpt"], fallback_model="spare") | keyless,
    ]
    patient = {"first_byte_s": PATIENCE_S, "idle_s": PATIENCE_S}
    spare = model("spare", "openai", vendors["spare"], timeouts=patient)
    return [*(one | {"timeouts": timeouts} for one in models), spare]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartHosted]:
    async with AsyncExitStack() as stack:

        async def start(*, first_byte_s: float = PATIENCE_S, idle_s: float = PATIENCE_S, **sections: object) -> Hosted:
            vendors = {name: Vendor(f"{name}-at-its-vendor") for name in ("gpt", "claude", "groq", "far", "spare")}
            for vendor in vendors.values():
                await stack.enter_async_context(listening(vendor))
            args = {
                "models": _models(vendors, {"first_byte_s": first_byte_s, "idle_s": idle_s}),
                "cluster": {"secret": SECRET},
                "sessions": {"store": f"sqlite:///{tmp_path}/state.db"},
                "fallback": {"max_wait_s": 0, "failures": 1000},
            }
            settings = load_args(args | sections, env={}, check_paths=False)
            registry, woken = InProcessRegistry(settings), list[str]()
            gateway = Gateway(settings.without_provider_keys(), registry, "router-1", woken.append)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            managers: dict[str, ManagerApp] = {}
            for name, config in settings.managers().items():
                if config.models[0].why_unavailable is None:
                    managers[name], state = await _manager(stack, settings, name)
                    await registry.hears(state)
            url = await stack.enter_async_context(served(gateway))
            return Hosted(url, gateway, settings, registry, woken, vendors, managers, stack)

        yield start


async def _manager(stack: AsyncExitStack, settings: Settings, name: str) -> tuple[ManagerApp, ReplicaState]:
    """A manager behind its own HTTP face, as it would report itself."""
    manager = MANAGERS[settings.managers()[name].provider].from_settings(settings, name)
    stack.push_async_callback(manager.close)
    app = ManagerApp(manager, SECRET, 1 << 20, capacity=100)
    address = await stack.enter_async_context(served(app))
    return app, ReplicaState(f"{name}-1", address, ReplicaPhase.READY, (name,), 100, Load())


@pytest.fixture
async def hosted(start: StartHosted) -> Hosted:
    return await start()


@pytest.fixture
async def client(hosted: Hosted) -> aiohttp.ClientSession:
    return await hosted.client()
