"""Models on this machine's own hardware, in vLLM; or behind a server of OpenAI's dialect at a `base_url`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from adapters.manager import AdapterManager
from deployments.base_llm_manager import LoadedModel
from deployments.engine_manager import EngineManager, size_in_memory
from deployments.outside_server import OutsideServer
from serve.config import LocalModel, ModelConfig
from serve.errors import ConfigError
from serve.sessions import SessionManager


class LocalManager(EngineManager):
    """Runs models from directories on disk."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        model_cache_bytes: int,
        adapter_manager: AdapterManager,
        session_manager: SessionManager | None = None,
        bot_type: str | None = None,
    ) -> None:
        super().__init__(
            models,
            model_cache_bytes=model_cache_bytes,
            adapter_manager=adapter_manager,
            session_manager=session_manager,
            bot_type=bot_type,
        )
        self._by_path = {model.model_id: model for model in models if isinstance(model, LocalModel)}
        if len(self._by_path) != len(models):
            raise ConfigError("the manager", ("models: two models of one manager have the same model_id",))

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self._by_path[model_path]
        if config.base_url is not None:
            return OutsideServer(config)
        return await self._in_engine(config.name, Path(config.model_id), config.engine)

    @override
    def _size_of(self, model: ModelConfig) -> int:
        assert isinstance(model, LocalModel)
        return 0 if model.base_url is not None else size_in_memory(Path(model.model_id), model.engine)
