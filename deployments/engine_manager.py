"""What the managers of engines of ours have in common, wherever the weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from adapters.manager import AdapterHost, AdapterManager
from deployments.base_llm_manager import BaseLLMManager
from deployments.default_params import completed
from serve.api.endpoints import Kind
from serve.api.errors import stream_error
from serve.api.http import ASGIApp
from serve.api.requests import validate_for_engine
from serve.config import EngineConfig, EngineModel
from serve.errors import InvalidRequest
from serve.schemas import Json, Load
from serve.translate.vllm import Mended


class Engine(AdapterHost, Protocol):
    """What runs a model on this machine: `VllmEngine`."""

    @property
    def app(self) -> ASGIApp: ...

    def load(self) -> Load: ...

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...


class EngineManager(BaseLLMManager):
    """Runs each of its models in an engine of its own, in this process and its children."""

    async def _start_engine(self, name: str, path: Path, config: EngineConfig, *, run_code: bool = False) -> Engine:
        # Imported here: a manager that only fronts another server needs no vLLM, and vLLM takes seconds to import.
        from deployments.vllm_engine import VllmEngine

        return await VllmEngine.start(name, path, config, run_code=run_code)

    async def _in_engine(self, name: str, path: Path, config: EngineConfig, *, run_code: bool = False) -> LoadedEngine:
        engine = await self._start_engine(name, path, config, run_code=run_code)
        try:
            if engine.slots:
                await self.adapter_manager.register_manager(engine)
        except BaseException:
            await engine.close()  # nobody else knows of it
            raise
        return LoadedEngine(engine, self.adapter_manager)

    @override
    def prepare_inference_params(
        self, model_name: str, /, *, bot_type: str | None = None, endpoint: Kind = Kind.CHAT, **kwargs: Any
    ) -> Json:
        """Fill in defaults and refuse what the engine cannot answer, or would be harmed by.

        A request for prompt log-probabilities ends a vLLM 0.32 engine with LoRA when another sequence runs beside it
        (`EngineDeadError`), and every other request in that engine with it.
        """
        config = self.config_of(model_name)
        assert isinstance(config, EngineModel)
        validate_for_engine(endpoint, kwargs)
        params = completed(endpoint, kwargs, self.default_params(model_name, bot_type))
        if not config.engine.allow_prompt_logprobs:
            if params.get("prompt_logprobs") is not None:
                raise _refused("prompt_logprobs")
            if params.get("echo") and params.get("logprobs") is not None:
                raise _refused("echo")
        return params


class LoadedEngine:
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
