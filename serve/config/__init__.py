"""The one typed schema of `serve_config.yaml`'s `args`.

`docs/configuration.md`, made from it, lists every key.
"""

from serve.config.address import family_of, is_loopback, url_of
from serve.config.base import GIB
from serve.config.hosted import AnthropicModel, HuggingFaceModel, KeyedModel, OpenAIModel
from serve.config.live import LiveModel, LiveSettings
from serve.config.load import load_args
from serve.config.managers import Manager
from serve.config.models import (
    Autoscaling,
    EngineConfig,
    EngineModel,
    LocalModel,
    ModelBase,
    ModelLimits,
    ModelTimeouts,
    Resources,
)
from serve.config.providers import ModelConfig
from serve.config.schema import (
    AdapterConfig,
    AdapterStorage,
    Auth,
    BotConfig,
    ClusterConfig,
    FallbackConfig,
    Limits,
    RegistryConfig,
    RouterConfig,
    SessionsConfig,
    Timeouts,
)
from serve.config.serve_file import HttpBinding, load_file
from serve.config.settings import Settings
from serve.config.sizes import size_in_memory

__all__ = [
    "load_args",
    "load_file",
    "Settings",
    "LiveSettings",
    "LiveModel",
    "HttpBinding",
    "family_of",
    "is_loopback",
    "url_of",
    "size_in_memory",
    "GIB",
    "Manager",
    "ModelConfig",
    "ModelBase",
    "EngineModel",
    "KeyedModel",
    "LocalModel",
    "HuggingFaceModel",
    "OpenAIModel",
    "AnthropicModel",
    "EngineConfig",
    "Resources",
    "Autoscaling",
    "ModelLimits",
    "ModelTimeouts",
    "AdapterConfig",
    "BotConfig",
    "Auth",
    "ClusterConfig",
    "FallbackConfig",
    "Limits",
    "Timeouts",
    "SessionsConfig",
    "RegistryConfig",
    "RouterConfig",
    "AdapterStorage",
]
