"""What tests of faults wait for and look at, by the metrics that operators have too."""

from __future__ import annotations

from typing import Any

import psutil

from tests.live.asking import Client, chat_body
from tests.live.config import context_tokens
from tests.live.eventually import eventually
from tests.live.running import Switchboard

REPLICAS = 2
ROUTERS = 2
BACK_S = 150.0
"""For a new replica with its engine, on two cores."""


def long_tokens() -> int:
    """Nearly as much as the context holds: seconds of work."""
    return context_tokens() - 64


def long_body() -> dict[str, Any]:
    """A chat whose answer is that long."""
    return chat_body("demo", "Hello", max_tokens=long_tokens(), ignore_eos=True)


async def running_in_engines(client: Client) -> float:
    """Sequences that vLLM works on, by its own account."""
    metrics = await client.metrics()
    return metrics.total("vllm:num_requests_running") + metrics.total("vllm:num_requests_waiting")


async def written(client: Client) -> float:
    """Tokens that the engines have written so far."""
    return (await client.metrics()).total("vllm:generation_tokens_total")


async def idle(client: Client, within_s: float = 30.0) -> None:
    """Wait until nothing is in flight anywhere."""

    async def nothing() -> bool:
        metrics = await client.metrics()
        names = ("switchboard_in_flight", "switchboard_manager_in_flight", "vllm:num_requests_running")
        return not sum(metrics.total(name) for name in names)

    await eventually(nothing, within_s, "nothing is in flight")


async def live(client: Client) -> bool:
    """Whether each router sees every replica of the demo model."""
    seen = (await client.metrics()).samples("switchboard_live_replicas", model="demo")
    return sorted(sample.value for sample in seen) == [REPLICAS] * ROUTERS


async def whole(client: Client, switchboard: Switchboard) -> dict[str, psutil.Process]:
    """Wait until every replica is there, for the routers and for Serve. Their processes by their ids."""

    async def all_there() -> dict[str, psutil.Process] | None:
        found = await switchboard.replicas("LocalManager-demo")
        return found if len(found) == REPLICAS and await live(client) else None

    found = await eventually(all_there, BACK_S, "both routers see both replicas")
    assert found is not None
    return found
