"""A manager in this process, with engines that hold no model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from typing_extensions import override

from deployments.engine_manager import Engine
from deployments.local_manager import LocalManager
from serve.config import EngineConfig, load_args
from serve.sessions import SessionManager
from tests.adapters.files import lora, write_adapter, write_base
from tests.fakes.engine import FakeEngine

Args: TypeAlias = dict[str, Any]


class Manager(LocalManager):
    """`LocalManager` but for what runs the models."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.engines: dict[str, FakeEngine] = {}
        self.starts: list[str] = []

    @override
    async def _start_engine(self, name: str, path: Path, config: EngineConfig, *, run_code: bool = False) -> Engine:
        self.starts.append(name)
        engine = self.engines[name] = FakeEngine(name, path, slots=config.adapter_slots)
        return engine


MakeManager: TypeAlias = Callable[..., Awaitable[Manager]]


@pytest.fixture
def args(tmp_path: Path) -> Args:
    """A model with two adapters and their bots."""
    write_base(tmp_path / "demo")
    for value, name in enumerate(("support", "sales"), start=1):
        write_adapter(tmp_path / name, lora(value=value))
    return {
        "models": [
            {
                "name": "demo",
                "provider": "local",
                "model_id": str(tmp_path / "demo"),
                "default_params": {"temperature": 0.2, "max_tokens": 64},
                "engine": {"max_loras": 2},
            }
        ],
        "adapters": [{"name": name, "model": "demo", "source": str(tmp_path / name)} for name in ("support", "sales")],
        "bots": {
            "support": {"model": "demo", "adapters": ["support"], "default_params": {"temperature": 0.7, "top_p": 0.9}},
            "sales": {"model": "demo", "adapters": ["sales"]},
            "plain": {"model": "demo"},
        },
        "sessions": {"store": f"sqlite:///{tmp_path}/state.db"},
        "adapter_storage": {"cache_dir": str(tmp_path / "cache")},
    }


@pytest.fixture
async def make(args: Args, tmp_path: Path) -> AsyncIterator[MakeManager]:
    """Makes a manager of the model `name`, with these sections of `args` in place of those above."""
    async with AsyncExitStack() as stack:

        async def make(name: str = "demo", bot_type: str | None = None, **sections: object) -> Manager:
            settings = load_args(args | sections, env={}, root=tmp_path)
            sessions = SessionManager.from_settings(settings.sessions)
            stack.push_async_callback(sessions.close)
            manager = Manager.from_settings(settings, name, session_manager=sessions, bot_type=bot_type)
            stack.push_async_callback(manager.close)
            return manager

        yield make


@pytest.fixture
async def manager(make: MakeManager) -> Manager:
    return await make()
