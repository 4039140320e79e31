"""What is sound of a configuration, even where some of it is not: so that all faults are found in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from serve.config.faults import Fault, Loc
from serve.config.live import LiveModel, LiveSettings
from serve.config.providers import AnyModel, ModelConfig
from serve.config.schema import AdapterConfig, Auth, BotConfig, Limits

T = TypeVar("T")

_MODEL: TypeAdapter[ModelConfig] = TypeAdapter(AnyModel)
_ADAPTER = TypeAdapter(AdapterConfig)
_BOT = TypeAdapter(BotConfig)
_LIMITS = TypeAdapter(Limits)
_AUTH = TypeAdapter(Auth)


@dataclass(frozen=True)
class Draft:
    """The entries that hold by themselves, by their places in the file, and the names of all entries.

    Whoever refers to an entry that does not hold has made no mistake, so `model_names` and `adapter_names`
    (model, or None where it cannot be told, and name) count those too. `names_complete`: no entry's name is
    unreadable.
    """

    models: Mapping[int, ModelConfig]
    adapters: Mapping[int, AdapterConfig]
    bots: Mapping[str, BotConfig]
    limits: Limits
    model_names: Mapping[int, str]
    adapter_names: Mapping[int, tuple[str | None, str]]
    names_complete: bool = True

    @classmethod
    def sound(
        cls,
        models: Sequence[ModelConfig],
        adapters: Sequence[AdapterConfig],
        bots: Mapping[str, BotConfig],
        limits: Limits,
    ) -> Draft:
        """Of settings that are valid as a whole."""
        return cls(
            models=dict(enumerate(models)),
            adapters=dict(enumerate(adapters)),
            bots=bots,
            limits=limits,
            model_names={place: model.name for place, model in enumerate(models)},
            adapter_names={place: (adapter.model, adapter.name) for place, adapter in enumerate(adapters)},
        )

    @classmethod
    def salvaged(cls, data: Any, faults: Sequence[Fault]) -> Draft:
        """Of data some of which is at fault."""
        rest = _Remains(data, faults)
        models, adapters = rest.entries("models"), rest.entries("adapters")
        model_names = {place: name for place in models if (name := rest.text("models", place, "name"))}
        adapter_names = {
            place: (rest.text("adapters", place, "model"), name)
            for place in adapters
            if (name := rest.text("adapters", place, "name"))
        }
        told = rest.tells("models") and rest.tells("adapters")
        return cls(
            models={i: model for i in models if (model := rest.sound(_MODEL, ("models", i)))},
            adapters={i: adapter for i in adapters if (adapter := rest.sound(_ADAPTER, ("adapters", i)))},
            bots={name: bot for name in rest.names("bots") if (bot := rest.sound(_BOT, ("bots", name)))},
            limits=rest.sound(_LIMITS, ("limits",)) or Limits(),
            model_names=model_names,
            adapter_names=adapter_names,
            names_complete=told and (len(model_names), len(adapter_names)) == (len(models), len(adapters)),
        )

    @property
    def models_by_name(self) -> Mapping[str, ModelConfig]:
        """Of two with the same name, the first."""
        return {model.name: model for model in reversed(list(self.models.values()))}

    @property
    def live(self) -> LiveSettings:
        """The live part of what is sound."""
        models = {
            model.name: LiveModel(default_params=model.default_params, limits=model.limits)
            for model in self.models.values()
        }
        return LiveSettings(bots=self.bots, models=models, limits=self.limits)

    def with_live(self, live: LiveSettings) -> Draft:
        models = {place: with_live_part(model, live) for place, model in self.models.items()}
        return replace(self, models=models, bots=live.bots, limits=live.limits)


def with_live_part(model: ModelConfig, live: LiveSettings) -> ModelConfig:
    """The model with its part of the live settings in force."""
    part = live.models.get(model.name)
    if part is None:
        return model
    return model.model_copy(update={"default_params": part.default_params, "limits": part.limits})


def is_keyless(data: Any, faults: Sequence[Fault]) -> bool:
    """Whether there is no client key, for certain: an `auth` at fault may hold some."""
    auth = _Remains(data, faults).sound(_AUTH, ("auth",), absent={})
    return auth is not None and not auth.key_digests


class _Remains:
    """Expanded data of any shape, and the places in it that are at fault."""

    def __init__(self, data: Any, faults: Sequence[Fault]) -> None:
        self._data = data
        self._faults = faults

    def entries(self, section: str) -> range:
        value = self._at((section,))
        return range(len(value)) if isinstance(value, list) else range(0)

    def tells(self, section: str) -> bool:
        """Whether every entry of the section is seen: a list is there, or nothing meant as one."""
        value = self._at((section,))
        slips = [fault.loc for fault in self._faults if len(fault.loc) < 2]
        return not slips if value is None else isinstance(value, list) and (section,) not in slips

    def names(self, section: str) -> list[str]:
        value = self._at((section,))
        return [name for name in value if isinstance(name, str)] if isinstance(value, dict) else []

    def text(self, *loc: str | int) -> str | None:
        """What is written there, wrong or not, unless it is a reference that could not be replaced."""
        value = self._at(loc)
        return str(value) if isinstance(value, str) and "${" not in value else None

    def sound(self, kind: TypeAdapter[T], loc: Loc, absent: Any = None) -> T | None:
        """The value at `loc`, or what `absent` makes, if it holds by itself."""
        if not self._whole(loc):
            return None
        value = self._at(loc)
        try:
            return kind.validate_python(absent if value is None else value)
        except ValidationError:
            return None

    def _whole(self, loc: Loc) -> bool:
        """Whether no fault lies at `loc`, above it or below it."""
        return not any(loc[: len(fault.loc)] == fault.loc or fault.within(loc) for fault in self._faults)

    def _at(self, loc: Loc) -> Any:
        value = self._data
        for part in loc:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value
