"""What `serve deploy` of the same file with another `user_config` changes, and what it leaves running."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.live.asking import Client
from tests.live.config import ROOT
from tests.live.eventually import eventually
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

DEPLOYED_S = 60.0


async def deploy(switchboard: Switchboard, path: Path) -> None:
    address = f"http://127.0.0.1:{switchboard.dashboard_port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ray.serve.scripts", "deploy", str(path), "--address", address),
        cwd=ROOT,
        env=switchboard.operator_environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(DEPLOYED_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_bots_and_defaults_change_without_a_restart(client: Client, switchboard: Switchboard) -> None:
    before = await _running(switchboard)
    bots = switchboard.args["bots"]
    changed = switchboard.write_config(
        "changed.yaml",
        {
            "bots": {**bots, "newcomer": {"model": "demo", "adapters": ["sales"], "default_params": {"max_tokens": 4}}},
            "models": {"demo": {"default_params": {"max_tokens": 6}}},
        },
    )

    async def everybody_knows() -> bool:
        """Each replica hears of it with its own next heartbeat."""
        answers = [(await client.chat(name, "Hello"), tokens) for name, tokens in (("newcomer", 4), ("demo", 6)) * 8]
        return all(one.status == 200 and one.json["usage"]["completion_tokens"] == tokens for one, tokens in answers)

    await deploy(switchboard, changed)
    try:
        await eventually(everybody_knows, DEPLOYED_S, "the new bot answers, and the model's new default holds")
        assert (await client.chat("newcomer", "Hello")).adapter.startswith("sales@")
        assert "newcomer" in [model["id"] for model in (await client.get("/v1/models")).json["data"]]
        wrong = switchboard.write_config("wrong.yaml", {"bots": {"newcomer": {"model": "nobody"}}})
        await deploy(switchboard, wrong)
        assert (await client.chat("newcomer", "Hello")).adapter.startswith("sales@")
    finally:
        await deploy(switchboard, switchboard.write_config("as_before.yaml", {}))

    async def newcomer_gone() -> bool:
        return (await client.chat("newcomer", "Hello")).status == 404

    async def same_replicas() -> bool:
        # While Serve hands a replica its new user_config, that one does not count as running.
        return await _running(switchboard) == before

    await eventually(newcomer_gone, DEPLOYED_S, "the new bot is gone again")
    await eventually(same_replicas, DEPLOYED_S, "the replicas are those of before")


async def _running(switchboard: Switchboard) -> set[str]:
    deployments = ("Registry", "Router", "LocalManager-demo", "LocalManager-outside")
    return {replica for name in deployments for replica in await switchboard.replicas(name)}
