"""Models on this machine's own hardware, in vLLM; or behind a server of OpenAI's dialect at a `base_url`."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from deployments.base_llm_manager import LoadedModel
from deployments.engine_manager import EngineManager
from deployments.hosted_app import HostedApp
from deployments.hosted_manager import HostedModel
from deployments.provider import Provider
from serve.api.endpoints import ENDPOINTS
from serve.config import LocalModel, ModelConfig, size_in_memory

ROUTES = dict.fromkeys(endpoint.path for endpoint in ENDPOINTS if endpoint.forwards)
"""Another server is asked at the same path, whichever that is: what it has not it says itself."""


class LocalManager(EngineManager):
    """Runs models from directories on disk; passes on what is for models of other servers."""

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self.by_model_id[model_path]
        assert isinstance(config, LocalModel)
        if config.base_url is not None:
            provider = Provider(config.base_url, "/v1", _headers(config), config.timeouts.provider_connect_s)
            return HostedModel(model_path, provider, HostedApp(config.name, provider, ROUTES))
        return await self._in_engine(config.name, Path(config.model_id), config.engine)

    @override
    def _size_of(self, model: ModelConfig) -> int:
        assert isinstance(model, LocalModel)
        return 0 if model.base_url is not None else size_in_memory(Path(model.model_id), model.engine)


def _headers(config: LocalModel) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if config.api_key is not None:
        headers["authorization"] = f"Bearer {config.api_key.get_secret_value()}"
    return headers
