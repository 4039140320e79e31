"""What the documentation shows can be copied, pasted and run."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.documentation import ROOT, snippets
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

BOUND_S = 60.0
ADDRESS = "http://127.0.0.1:8000"


async def run(switchboard: Switchboard, *command: str) -> str:
    token = {name: switchboard.operator_environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | token | {"PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(BOUND_S):
        said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return said.decode()


def here(snippet: str, switchboard: Switchboard) -> str:
    """The snippet with this Switchboard's address and key in the places of the demo's."""
    assert ADDRESS in snippet
    keyed = snippet.replace('"none"', f'"{switchboard.client_key}"').replace("YOUR_KEY", switchboard.client_key)
    keyed = keyed.replace("curl ", f"curl --silent --fail -H 'authorization: Bearer {switchboard.client_key}' ")
    return keyed.replace(ADDRESS, switchboard.base_url)


@pytest.mark.parametrize("snippet", snippets("python", about=ADDRESS))
async def test_python_with_an_sdk(snippet: str, switchboard: Switchboard, tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(here(snippet, switchboard))
    said = await run(switchboard, sys.executable, str(script))
    assert "print" not in snippet or said.strip()


@pytest.mark.parametrize("snippet", snippets("sh", about=f"curl {ADDRESS}"))
async def test_curl(snippet: str, switchboard: Switchboard) -> None:
    assert (await run(switchboard, "bash", "-ec", here(snippet, switchboard))).startswith("{")


@pytest.mark.parametrize("snippet", snippets("python", about="get_deployment_handle"))
async def test_python_over_a_handle(snippet: str, switchboard: Switchboard, tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(snippet)
    said = await run(switchboard, sys.executable, str(script))
    assert said.splitlines()[-1] == "404 adapter_not_found"
