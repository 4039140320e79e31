"""What every manager of models is, whoever the provider.

A manager is a plain Python object: it can be built and used in-process, and Ray Serve runs the same class in its
replicas (`deployments/served.py`). Requests over HTTP (`deployments/manager_app.py`) and calls of `generate_response`
take the same steps: `get_model`, `activate_adapter…`, `prepare_inference_params`, then the model's own app.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, Self

from adapters.manager import AdapterManager
from deployments.call import call_json
from deployments.default_params import merged
from serve.api.endpoints import Kind
from serve.api.http import ASGIApp
from serve.config import BotConfig, ModelConfig, Settings
from serve.errors import NotFound
from serve.model_cache import ModelCache
from serve.schemas import AdapterRef, Json, Load
from serve.sessions import SessionManager

NOT_PARAMETERS = frozenset({"bot_type", "endpoint", "fallbacks"})
"""Keywords of `prepare_inference_params` itself, and what is for the router."""


class LoadedModel(Protocol):
    """A model that can answer: an engine, or a server elsewhere."""

    @property
    def name(self) -> str: ...

    @property
    def app(self) -> ASGIApp:
        """Answers the vendors' endpoints; `body["model"]` is `name` or the address of an adapter in the engine."""

    def load(self) -> Load: ...

    async def check_health(self) -> None:
        """Raise when the model can answer no more."""

    async def close(self) -> None: ...


class BaseLLMManager(ABC):
    """Serves the models of one provider.

    `model_cache_bytes` bounds the models in memory at once. `bot_type` is the bot that calls without a session speak
    for; None for no bot.
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        model_cache_bytes: int,
        adapter_manager: AdapterManager,
        session_manager: SessionManager | None = None,
        bot_type: str | None = None,
    ) -> None:
        self.models = {model.name: model for model in models}
        # No two have the same: `serve/config/managers.py` sees to it.
        self.by_model_id = {model.model_id: model for model in models}
        self.adapter_manager = adapter_manager
        self.session_manager = session_manager
        self.bot_type = bot_type
        self._default_params: dict[str, Json] = {model.name: dict(model.default_params) for model in models}
        self._bots: Mapping[str, BotConfig] = {}
        self._cache_bytes = model_cache_bytes
        self._cache: ModelCache[LoadedModel] = ModelCache(model_cache_bytes, release=_close)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        name: str,
        *,
        session_manager: SessionManager | None = None,
        bot_type: str | None = None,
    ) -> Self:
        """The manager called `name` (that is, its model, unless the model names another), for use in this process."""
        config = settings.managers()[name]
        manager = cls(
            config.models,
            model_cache_bytes=config.model_cache_bytes,
            adapter_manager=AdapterManager.from_settings(settings, [model.name for model in config.models]),
            session_manager=session_manager,
            bot_type=bot_type,
        )
        manager.configure(config.models, settings.bots)
        return manager

    # What a provider adds.

    @abstractmethod
    async def _load_specific_model(self, model_path: str) -> LoadedModel:
        """Bring up the model with this `model_id` (a path, or the provider's own name for it)."""

    @abstractmethod
    def _size_of(self, model: ModelConfig) -> int:
        """Bytes that the model takes up in this process's machine while it is loaded."""

    @abstractmethod
    def prepare_inference_params(
        self, model_name: str, /, *, bot_type: str | None = None, endpoint: Kind = Kind.CHAT, **kwargs: Any
    ) -> Json:
        """The request's parameters as the model is asked with them. Raises `InvalidRequest`.

        What the request leaves out is filled in from the `default_params` of the bot, then of the model.
        """

    # The framework's calls.

    async def get_model(self, model_name: str) -> LoadedModel:
        """The model, loaded. Raises `NotFound`; `Unavailable` while there is no room for it."""
        async with self.use_model(model_name) as model:
            return model

    async def activate_adapter(self, model_name: str, adapter_name: str, version: str | None = None) -> AdapterRef:
        """Put one adapter into the model's engine. Raises `NotFound`, `AdapterUnusable`, `Unavailable`."""
        async with self.use_model(model_name):
            ref = self.adapter_manager.resolve(model_name, adapter_name, version)
            await self.adapter_manager.activate(model_name, ref)
            return ref

    async def activate_adapters_for_session(self, model_name: str, session_id: str) -> bool:
        """Put the adapters of the session's bot into the model's engine.

        Returns whether the bot has one for this model. Raises `NotFound` for an unknown session.
        """
        bot_type = await self._bot_of(session_id)
        if bot_type is None:
            return False
        async with self.use_model(model_name):
            return await self.adapter_manager.activate_adapters_for_bot(model_name, bot_type) is not None

    async def generate_response(
        self,
        prompt: str,
        model: str | None = None,
        *,
        adapter: str | None = None,
        session_id: str | None = None,
        bot_type: str | None = None,
        **kwargs: Any,
    ) -> str:
        """The model's answer to one user message.

        `model` defaults to the manager's first. The adapter is the one named (`support` or `support@<version>`), else
        the one of the session's bot, of `bot_type`, or of the manager's own bot. `kwargs` are parameters of OpenAI's
        chat completions (`temperature`, `max_tokens`, …). Raises a `SwitchboardError`.
        """
        name = model or next(iter(self.models))
        bot = await self._bot_of(session_id) if session_id else bot_type or self.bot_type
        messages = [{"role": "user", "content": prompt}]
        async with self.use_model(name):
            ref = self._adapter_for(name, adapter, bot)
            async with self.ready_to_answer(name, ref) as (app, engine_name):
                params = self.prepare_inference_params(name, bot_type=bot, messages=messages, **kwargs)
                body = params | {"model": engine_name, "stream": False}
                completion = await call_json(app, "/v1/chat/completions", body)
        return str(completion["choices"][0]["message"]["content"] or "")

    # The request's path, shared by HTTP and `generate_response`.

    @asynccontextmanager
    async def use_model(self, model_name: str) -> AsyncIterator[LoadedModel]:
        """The model, loaded and not evicted while the block runs."""
        config = self.config_of(model_name)

        async def load() -> LoadedModel:
            return await self._load_specific_model(config.model_id)

        async with self._cache.lease(model_name, lambda: self._size_of(config), load) as model:
            yield model

    @asynccontextmanager
    async def ready_to_answer(self, model_name: str, ref: AdapterRef | None) -> AsyncIterator[tuple[ASGIApp, str]]:
        """The model's app and the name to ask it by, with the adapter in the engine while the block runs."""
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(self.use_model(model_name))
            if ref is not None:
                await stack.enter_async_context(self.adapter_manager.lease(ref))
            yield model.app, ref.address if ref else model.name

    # Life.

    async def start(self) -> None:
        """Load the models in their order, as far as the cache has room for them, and the adapters to be preloaded.

        What has no room, or cannot be asked for (its key is missing), waits until somebody asks.
        """
        used = 0
        for name, model in self.models.items():
            size = self._size_of(model)
            if model.why_unavailable or (used and used + size > self._cache_bytes):
                continue
            used += size
            await self.get_model(name)
        await self.adapter_manager.preload()

    async def check_health(self) -> None:
        """Raise when a loaded model can answer no more."""
        for model in self._cache.loaded():
            await model.check_health()

    def load(self) -> Load:
        """The engines' counts together; the fullest KV cache."""
        loads = [model.load() for model in self._cache.loaded()]
        return Load(
            in_flight=sum(load.in_flight for load in loads),
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            kv_cache=max((load.kv_cache for load in loads), default=0.0),
        )

    def configure(self, models: Sequence[ModelConfig], bots: Mapping[str, BotConfig]) -> None:
        """Take the live part of the settings, for the requests from now on."""
        self._default_params |= {
            model.name: dict(model.default_params) for model in models if model.name in self.models
        }
        self._bots = dict(bots)
        self.adapter_manager.update_bots(self._bots)

    def config_of(self, model_name: str) -> ModelConfig:
        """Raises `NotFound`."""
        config = self.models.get(model_name)
        if config is None:
            raise NotFound("This model is not served here.", "model", "model_not_found")
        return config

    def default_params(self, model_name: str, bot_type: str | None = None) -> Json:
        """The bot's defaults, and the model's where the bot has none."""
        bot = self._bots.get(bot_type) if bot_type else None
        return merged(dict(bot.default_params) if bot else {}, self._default_params[model_name])

    async def close(self) -> None:
        """Release every model."""
        await self._cache.close()
        await self.adapter_manager.close()

    async def _bot_of(self, session_id: str) -> str | None:
        if self.session_manager is None:
            raise NotFound("This manager keeps no sessions.", "session_id", "session_not_found")
        context = await self.session_manager.get_session_context(session_id)
        bot_type: str | None = context.get("bot_type", self.bot_type)
        return bot_type

    def _adapter_for(self, model: str, adapter: str | None, bot: str | None) -> AdapterRef | None:
        if adapter is not None:
            name, _, version = adapter.partition("@")
            return self.adapter_manager.resolve(model, name, version or None)
        return self.adapter_manager.adapter_of_bot(model, bot) if bot else None


async def _close(model: LoadedModel) -> None:
    await model.close()
