"""A gateway behind a real uvicorn, in front of replicas that do as they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from serve.config import load_args
from serve.gateway.app import Gateway, WithoutRequestId
from tests.fakes.registry import InProcessRegistry
from tests.fakes.serving import served
from tests.serve.gateway.running import Args, Running, Start


@pytest.fixture
def args(tmp_path: Path) -> Args:
    """One model with two adapters and their bots, and one that may sleep."""
    return {
        "models": [
            {"name": "demo", "provider": "local", "model_id": "demo", "engine": {"max_loras": 2}},
            {"name": "sleepy", "provider": "local", "model_id": "sleepy", "autoscaling": {"min_replicas": 0}},
        ],
        "adapters": [
            {"name": "support", "model": "demo", "source": "support"},
            {"name": "sales", "model": "demo", "source": "sales"},
        ],
        "bots": {
            "support": {"model": "demo", "adapters": ["support"]},
            "sales": {"model": "demo", "adapters": ["sales"]},
        },
        "cluster": {"secret": "the-cluster-s-own-secret"},
        "sessions": {"store": f"sqlite:///{tmp_path}/state.db"},
    }


@pytest.fixture
async def start(args: Args) -> AsyncIterator[Start]:
    """Starts a gateway, with these sections of `args` in place of those above."""
    async with AsyncExitStack() as stack:

        async def start(*, says_request_id: bool = True, **sections: object) -> Running:
            settings = load_args(args | sections, env={}, check_paths=False)
            registry = InProcessRegistry(settings)
            woken: list[str] = []
            gateway = Gateway(settings, registry, "router-1", woken.append)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            url = await stack.enter_async_context(served(gateway if says_request_id else WithoutRequestId(gateway)))
            return Running(gateway, registry, url, woken, stack)

        yield start


@pytest.fixture
async def running(start: Start) -> Running:
    """A gateway without client keys, and no replica yet."""
    return await start()


@pytest.fixture
async def client(running: Running) -> aiohttp.ClientSession:
    return await running.client()
