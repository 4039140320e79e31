"""What every manager does, whoever the provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.openai_manager import OpenAIManager
from serve.config import load_args
from serve.errors import Unavailable
from tests.adapters.files import write_base
from tests.deployments.conftest import MakeManager

# Which models are there from the start.


@pytest.fixture
def two(tmp_path: Path) -> list[dict[str, Any]]:
    """Two models of one manager, by name, and as large as each other."""
    return [
        {"name": name, "provider": "local", "model_id": str(write_base(tmp_path / name)), "manager": "both"}
        for name in ("one", "two")
    ]


async def test_all_of_them_where_there_is_room(make: MakeManager, two: list[dict[str, Any]]) -> None:
    manager = await make("both", models=two, adapters=[], bots={})
    await manager.start()
    assert manager.starts == ["one", "two"]


async def test_none_that_another_would_have_to_go_for(
    make: MakeManager, two: list[dict[str, Any]], tmp_path: Path
) -> None:
    size = (tmp_path / "one" / "model.safetensors").stat().st_size
    two[0]["model_cache_gib"] = 1.5 * size / 1024**3
    manager = await make("both", models=two, adapters=[], bots={})
    await manager.start()
    assert manager.starts == ["one"]
    assert not manager.engines["one"].closed


async def test_none_that_cannot_be_asked_and_it_keeps_no_other_from_starting() -> None:
    rows = [
        {"name": name, "provider": "openai", "model_id": name, "manager": "both", "api_key": f"${{{name.upper()}}}"}
        for name in ("keyless", "keyed")
    ]
    settings = load_args({"models": rows}, env={"KEYED": "sk-canary"})
    manager = OpenAIManager.from_settings(settings, "both")
    await manager.start()
    assert (await manager.get_model("keyed")).name == "keyed"
    with pytest.raises(Unavailable, match="KEYLESS"):
        await manager.get_model("keyless")
    await manager.close()
