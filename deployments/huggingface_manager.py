"""Models of the Hugging Face hub: brought to this machine, then run in vLLM as local ones are."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path

from typing_extensions import override

from deployments.base_llm_manager import LoadedModel
from deployments.engine_manager import EngineManager, LoadedEngine
from serve.config import GIB, HuggingFaceModel, ModelConfig, size_in_memory
from serve.hub import Hub, HubModel

logger = logging.getLogger(__name__)


class HuggingFaceManager(EngineManager):
    """Downloads each model's pinned revision, unless it is on disk, and keeps it there while it is in memory."""

    def say(self, line: str) -> None:
        """Told of a download's progress, from any thread."""
        logger.info("%s", line)

    @override
    async def start(self) -> None:
        for config in self.models.values():
            # Before any of them takes its place in the model cache: its size is known only then.
            await asyncio.to_thread(self._hub_of(config).fetch, _pinned(config), allow_code=_runs_code(config))
        await super().start()

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self.by_model_id[model_path]
        assert isinstance(config, HuggingFaceModel)
        hub, model = self._hub_of(config), _pinned(config)
        with ExitStack() as held:
            held.enter_context(hub.hold(model))
            path = await asyncio.to_thread(hub.fetch, model, allow_code=config.trust_remote_code)
            engine = await self._in_engine(config.name, path, config.engine, run_code=config.trust_remote_code)
            return HeldEngine(engine, held.pop_all())

    @override
    def _size_of(self, model: ModelConfig) -> int:
        assert isinstance(model, HuggingFaceModel)
        return size_in_memory(self._hub_of(model).path(_pinned(model)), model.engine)

    def _hub_of(self, config: ModelConfig) -> Hub:
        assert isinstance(config, HuggingFaceModel)
        return Hub(
            Path(config.cache_dir),
            int(config.cache_gib * GIB),
            endpoint=config.hub,
            token=config.token,
            stall_s=config.stall_s,
            say=self.say,
        )


class HeldEngine:
    """An engine whose files stay on disk until it is closed."""

    def __init__(self, engine: LoadedEngine, held: ExitStack) -> None:
        self.name = engine.name
        self.app = engine.app
        self.load = engine.load
        self.check_health = engine.check_health
        self._engine = engine
        self._held = held

    async def close(self) -> None:
        with self._held:
            await self._engine.close()


def _pinned(config: ModelConfig) -> HubModel:
    assert isinstance(config, HuggingFaceModel)
    return HubModel(config.model_id, config.revision)


def _runs_code(config: ModelConfig) -> bool:
    return isinstance(config, HuggingFaceModel) and config.trust_remote_code
