"""What the managers of hosted providers have in common: no weights, no adapters in an engine, a key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from deployments.base_llm_manager import BaseLLMManager, LoadedModel
from deployments.default_params import completed
from deployments.hosted_app import HostedApp
from deployments.provider import Provider
from deployments.vendor_fields import missing
from serve.api.endpoints import Kind
from serve.api.http import ASGIApp
from serve.config import KeyedModel, ModelConfig, OpenAIModel
from serve.errors import Unavailable
from serve.schemas import Json, Load
from serve.translate.translator import Translator


class HostedManager(BaseLLMManager):
    """Asks a provider in the name of its models."""

    signs_thinking: ClassVar[bool] = False
    """Whether it refuses thinking that it did not sign."""

    @abstractmethod
    async def _provider(self, config: ModelConfig, key: str) -> Provider:
        """Opens the pool of connections for one model."""

    @abstractmethod
    def _routes(self, config: ModelConfig) -> Mapping[str, Translator | None]:
        """What the model answers, as `HostedApp` takes it."""

    @override
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        config = self.by_model_id[model_path]
        provider = await self._provider(config, _key(config))
        app = HostedApp(config.name, provider, self._routes(config), signs_thinking=self.signs_thinking)
        return HostedModel(model_path, provider, app)

    @override
    def _size_of(self, model: ModelConfig) -> int:
        return 0

    @override
    def prepare_inference_params(
        self, model_name: str, /, *, bot_type: str | None = None, endpoint: Kind = Kind.CHAT, **kwargs: Any
    ) -> Json:
        config = self.config_of(model_name)
        defaults = self.default_params(model_name, bot_type)
        chat_length = config.length_field if isinstance(config, OpenAIModel) else "max_tokens"
        return completed(endpoint, kwargs, defaults, chat_length=chat_length, missing=missing(endpoint))


class HostedModel:
    """A model at a provider."""

    def __init__(self, name: str, provider: Provider, app: ASGIApp) -> None:
        self.name = name
        self.app = app
        self._provider = provider

    def load(self) -> Load:
        return Load()

    async def check_health(self) -> None:
        """The provider's health is its own: a request finds out."""

    async def close(self) -> None:
        await self._provider.close()


def _key(config: ModelConfig) -> str:
    """Raises `Unavailable`."""
    assert isinstance(config, KeyedModel)
    if config.why_unavailable:
        raise Unavailable(f"The model '{config.name}' is not available: {config.why_unavailable}.")
    try:
        key = config.key()
    except (OSError, ValueError) as error:
        # Not the error's own words: they hold a path.
        raise Unavailable(f"The model '{config.name}' is not available: its api_key_file cannot be read.") from error
    return key or "no-key"
