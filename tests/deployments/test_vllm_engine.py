"""What `VllmEngine` does around vLLM. Without an engine, but importing vLLM takes as long as starting a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.config import EngineConfig

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]  # vLLM's imports warn


class Started:
    """Stands where `AsyncLLM` and `AsyncEngineArgs` do: an engine that is up and then says no more."""

    def __init__(self) -> None:
        self.shut_down = False

    def from_cli_args(self, args: object) -> Started:
        return self

    def create_engine_config(self) -> None:
        return None

    def from_vllm_config(self, *arguments: Any, **options: Any) -> Started:
        return self

    async def get_supported_tasks(self) -> None:
        raise RuntimeError("EngineDeadError")

    def shutdown(self) -> None:
        self.shut_down = True


async def test_an_engine_that_gets_no_app_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments import vllm_engine

    started = Started()
    monkeypatch.setattr(vllm_engine, "AsyncEngineArgs", started)
    monkeypatch.setattr(vllm_engine, "AsyncLLM", started)
    with pytest.raises(RuntimeError, match="EngineDeadError"):
        await vllm_engine.VllmEngine.start("demo", tmp_path, EngineConfig())
    assert started.shut_down
