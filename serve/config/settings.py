"""The settings as a whole: `args` of `serve_config.yaml`, valid."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, SecretStr

from serve.config.base import Section
from serve.config.change import changed
from serve.config.draft import Draft, with_live_part
from serve.config.faults import lines
from serve.config.live import Bots, LiveSettings
from serve.config.managers import Manager, managers_of
from serve.config.providers import AnyModel, ModelConfig
from serve.config.schema import (
    AdapterConfig,
    AdapterStorage,
    Auth,
    ClusterConfig,
    FallbackConfig,
    Limits,
    RegistryConfig,
    RouterConfig,
    SessionsConfig,
    Timeouts,
)
from serve.errors import ConfigError


class Settings(Section):
    """Everything that Switchboard is told. `load_args` and `with_live` make it and check it as a whole.

    Immutable, and pickles, so that it can go to every process. Secrets are `SecretStr`s and client keys
    digests: no repr, string or dump of it shows one.
    """

    models: Annotated[tuple[AnyModel, ...], Field(max_length=1000)] = Field(description="The models, at least one.")
    adapters: Annotated[tuple[AdapterConfig, ...], Field(max_length=10_000)] = Field(
        (), description="The models' LoRA adapters."
    )
    bots: Bots = Field({}, description="The bots by name. No bot is called like a model.")
    auth: Auth = Auth()
    cluster: ClusterConfig = ClusterConfig()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    fallback: FallbackConfig = FallbackConfig()
    sessions: SessionsConfig = SessionsConfig()
    registry: RegistryConfig = RegistryConfig()
    router: RouterConfig = RouterConfig()
    adapter_storage: AdapterStorage = AdapterStorage()

    def model(self, name: str) -> ModelConfig | None:
        return next((model for model in self.models if model.name == name), None)

    def managers(self) -> Mapping[str, Manager]:
        """The models grouped by the manager that serves them, by its name."""
        return {manager.name: manager for manager in managers_of(self.models)}

    def adapters_of(self, model: str) -> tuple[AdapterConfig, ...]:
        return tuple(adapter for adapter in self.adapters if adapter.model == model)

    def with_cluster_secret(self) -> Settings:
        """These settings, with a random cluster secret if none was configured."""
        if self.cluster.secret.get_secret_value():
            return self
        cluster = self.cluster.model_copy(update={"secret": SecretStr(secrets.token_urlsafe(32))})
        return self.model_copy(update={"cluster": cluster})

    def without_provider_keys(self) -> Settings:
        """These settings for a process that is no manager: a provider's key lives in its manager alone."""
        models = tuple(model.without_keys() for model in self.models)
        return self.model_copy(update={"models": models})

    @property
    def live(self) -> LiveSettings:
        """What `with_live` can change, as it is now."""
        return self._draft().live

    def with_live(
        self,
        user_config: Mapping[str, Any] | None,
        *,
        source: str = "user_config",
        env: Mapping[str, str] = os.environ,
    ) -> Settings:
        """These settings with a `user_config` in force; raises `ConfigError` with every fault of it.

        Serve's `user_config` is the whole change and not a step: call this on the settings that came from
        `args`, not on the result of an earlier call, or what has been taken out of `user_config` stays in
        force.
        """
        live, faults = changed(self._draft(), user_config, env)
        if live is None or faults:
            raise ConfigError(source, lines(faults))
        return self.with_live_settings(live)

    def with_live_settings(self, live: LiveSettings) -> Settings:
        """These settings with live ones that have been checked against them."""
        models = tuple(with_live_part(model, live) for model in self.models)
        return self.model_copy(update={"models": models, "bots": live.bots, "limits": live.limits})

    def _draft(self) -> Draft:
        return Draft.sound(self.models, self.adapters, self.bots, self.limits)
