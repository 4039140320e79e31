"""Models on this machine's own hardware, in vLLM; or behind a server of OpenAI's dialect at a `base_url`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from adapters.manager import AdapterHost, AdapterManager
from deployments.base_llm_manager import BaseLLMManager, LoadedModel
from deployments.default_params import completed
from deployments.outside_server import OutsideServer
from serve.api.endpoints import Kind
from serve.api.errors import stream_error
from serve.api.http import ASGIApp
from serve.config import LocalModel
from serve.errors import ConfigError, InvalidRequest
from serve.schemas import Json, Load
from serve.sessions import SessionManager
from serve.translate.vllm import Mended

GIB = 1024**3


class Engine(AdapterHost, Protocol):
    """What runs a model on this machine: `VllmEngine`."""

    @property
    def app(self) -> ASGIApp: ...

    def load(self) -> Load: ...

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...


class LocalManager(BaseLLMManager):
    """Runs each of its models in an engine of its own, in this process and its children."""

    def __init__(
        self,
        models: Sequence[LocalModel],
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
        self._by_path = {model.model_id: model for model in models}
        if len(self._by_path) != len(models):
            raise ConfigError("the manager", ("models: two models of one manager have the same model_id",))

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self._by_path[model_path]
        if config.base_url is not None:
            return OutsideServer(config)
        engine = await self._start_engine(config)
        if engine.slots:
            await self.adapter_manager.register_manager(engine)
        return EngineModel(engine, self.adapter_manager)

    async def _start_engine(self, config: LocalModel) -> Engine:
        # Imported here: a manager that only fronts another server needs no vLLM, and vLLM takes seconds to import.
        from deployments.vllm_engine import VllmEngine

        return await VllmEngine.start(config.name, Path(config.model_id), config.engine)

    @override
    def _size_of(self, model: LocalModel) -> int:
        if model.base_url is not None:
            return 0
        weights = sum(file.stat().st_size for file in Path(model.model_id).rglob("*.safetensors"))
        return weights + int((model.engine.kv_cache_gib or 0) * GIB)

    @override
    def prepare_inference_params(
        self, model_name: str, /, *, bot_type: str | None = None, endpoint: Kind = Kind.CHAT, **kwargs: Any
    ) -> Json:
        """Fill in defaults and refuse what would harm the engine.

        A request for prompt log-probabilities ends a vLLM 0.32 engine with LoRA when another sequence runs beside it
        (`EngineDeadError`), and every other request in that engine with it.
        """
        config = self.config_of(model_name)
        params = completed(endpoint, kwargs, self.default_params(model_name, bot_type))
        if not config.engine.allow_prompt_logprobs:
            if params.get("prompt_logprobs") is not None:
                raise _refused("prompt_logprobs")
            if params.get("echo") and params.get("logprobs") is not None:
                raise _refused("echo")
        return params


class EngineModel:
    """A model in its engine, with vLLM's app mended to the vendors' published schemas."""

    def __init__(self, engine: Engine, adapters: AdapterManager) -> None:
        self.name = engine.name
        self.app: ASGIApp = Mended(engine.app, stream_error)
        self.load = engine.load
        self.check_health = engine.check_health
        self._engine = engine
        self._adapters = adapters

    async def close(self) -> None:
        self._adapters.unregister_manager(self.name)
        await self._engine.close()


def _refused(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{field}' asks for log-probabilities of the prompt, which this engine does not give.",
        field,
        "unsupported_parameter",
    )
