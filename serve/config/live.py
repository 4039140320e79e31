"""The settings that change while all runs: the `user_config` of the Serve deployment `Registry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from serve.config.base import Name, Params, Section
from serve.config.models import ModelLimits
from serve.config.schema import BotConfig, Limits

Bots = Annotated[Mapping[Name, BotConfig], Field(max_length=10_000)]


class LiveModel(Section):
    """The live part of one model."""

    default_params: Params = Field({})
    limits: ModelLimits = ModelLimits()


class LiveSettings(Section):
    """Bots, models' default parameters and every limit, in the shapes that `user_config` has."""

    bots: Bots = Field({})
    models: Mapping[Name, LiveModel] = Field({})
    limits: Limits = Limits()


def overlaid(base: LiveSettings, change: Any) -> Any:
    """`base` with a `user_config` laid over it, not validated yet.

    `bots`, where given, replaces the whole table: else a bot could not be taken away. All else merges key by
    key.
    """
    if not isinstance(change, dict):
        return change
    merged = _merged(base.model_dump(), change)
    return merged | {"bots": change["bots"]} if "bots" in change else merged


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}
