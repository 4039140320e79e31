"""Engines that do not get as far as to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.weights import BadHeader
from tests.adapters.files import write_base
from tests.deployments.conftest import Manager


async def test_an_engine_whose_adapters_cannot_be_looked_after_is_ended(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "demo" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadHeader):
        await manager.get_model("demo")
    assert manager.engines["demo"].closed
    write_base(tmp_path / "demo")
    await manager.get_model("demo")
    assert manager.starts == ["demo", "demo"]
    assert not manager.engines["demo"].closed
