"""Managers: the models grouped by the replicas that serve them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve.config.base import GIB
from serve.config.faults import Fault
from serve.config.models import Autoscaling, Resources
from serve.config.providers import ModelConfig

SHARED = ("resources", "autoscaling", "model_cache_gib")
"""Keys that belong to a manager's replicas rather than to one model on them."""


@dataclass(frozen=True, slots=True)
class Manager:
    """One manager deployment: its models and what its replicas have in common."""

    name: str
    provider: str
    models: tuple[ModelConfig, ...]
    resources: Resources
    autoscaling: Autoscaling
    model_cache_bytes: int
    """More than there can be, where nobody sets a bound."""

    @property
    def drain_s(self) -> float:
        return max(model.timeouts.drain_s for model in self.models)

    @property
    def workers(self) -> int:
        """Bundles of `resources` that one replica needs: as many as its widest engine has workers."""
        return max(model.workers for model in self.models)


def managers_of(models: Iterable[ModelConfig]) -> tuple[Manager, ...]:
    """The models by manager, in the file's order. A shared key counts from the model that sets it."""
    groups: dict[str, list[ModelConfig]] = {}
    for model in models:
        groups.setdefault(model.manager_name, []).append(model)
    return tuple(_manager(name, tuple(members)) for name, members in groups.items())


def _manager(name: str, models: tuple[ModelConfig, ...]) -> Manager:
    def holder(key: str) -> ModelConfig:
        return next((model for model in models if key in model.model_fields_set), models[0])

    cache_gib = holder("model_cache_gib").model_cache_gib
    return Manager(
        name=name,
        provider=models[0].provider,
        models=models,
        resources=holder("resources").resources,
        autoscaling=holder("autoscaling").autoscaling,
        model_cache_bytes=sys.maxsize if cache_gib is None else int(cache_gib * GIB),
    )


def manager_faults(models: Mapping[int, ModelConfig]) -> list[Fault]:
    """Models of one manager that do not go together, and scaling that would never set in."""
    faults: list[Fault] = []
    first: dict[tuple[str, str], int] = {}
    ids: dict[tuple[str, str], int] = {}
    of: dict[str, int] = {}
    for place, model in models.items():
        other = of.setdefault(model.manager_name, place)
        if models[other].provider != model.provider:
            message = f"the manager '{model.manager_name}' serves models[{other}], of another provider"
            faults.append(Fault(("models", place, "manager"), message))
        if (other := ids.setdefault((model.manager_name, model.model_id), place)) != place:
            message = f"is models[{other}].model_id too, which shares the manager '{model.manager_name}'"
            faults.append(Fault(("models", place, "model_id"), message))
        for key in SHARED:
            if key not in model.model_fields_set:
                continue
            other = first.setdefault((model.manager_name, key), place)
            if getattr(models[other], key) != getattr(model, key):
                message = f"differs from models[{other}].{key}, which shares the manager '{model.manager_name}'"
                faults.append(Fault(("models", place, key), message))
    return faults + _unreachable_targets(models)


def _unreachable_targets(models: Mapping[int, ModelConfig]) -> list[Fault]:
    faults = []
    for manager in managers_of(models.values()):
        scaling = manager.autoscaling
        room = sum(model.limits.max_in_flight for model in manager.models)
        if scaling.max_replicas > scaling.min_replicas and scaling.target_in_flight > room:
            place = next(place for place, model in models.items() if model.manager_name == manager.name)
            message = (
                f"a replica takes {room} requests at most, below autoscaling.target_in_flight "
                f"({scaling.target_in_flight:g}): no further replica would ever start"
            )
            faults.append(Fault(("models", place, "limits", "max_in_flight"), message))
    return faults
