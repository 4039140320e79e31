"""Models on this machine's own hardware, in vLLM; or behind a server of OpenAI's dialect at a `base_url`."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from deployments.base_llm_manager import LoadedModel
from deployments.engine_manager import EngineManager, size_in_memory
from deployments.outside_server import OutsideServer
from serve.config import LocalModel, ModelConfig


class LocalManager(EngineManager):
    """Runs models from directories on disk."""

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self.by_model_id[model_path]
        assert isinstance(config, LocalModel)
        if config.base_url is not None:
            return OutsideServer(config)
        return await self._in_engine(config.name, Path(config.model_id), config.engine)

    @override
    def _size_of(self, model: ModelConfig) -> int:
        assert isinstance(model, LocalModel)
        return 0 if model.base_url is not None else size_in_memory(Path(model.model_id), model.engine)
