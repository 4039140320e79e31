"""What must hold between the entries: names are unique, and whatever they refer to exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from serve.config.draft import Draft
from serve.config.faults import Fault, nearest
from serve.config.managers import manager_faults
from serve.config.schema import BotConfig


def check(draft: Draft) -> list[Fault]:
    """Every fault between entries."""
    return [
        *_no_model(draft),
        *_repeated_names(draft),
        *_adapters(draft),
        *_preloads(draft),
        *_fallbacks(draft),
        *_bots(draft),
        *manager_faults(draft.models),
    ]


def _no_model(draft: Draft) -> Iterator[Fault]:
    if not draft.model_names and draft.names_complete:
        yield Fault(("models",), "at least one model is needed")


def _repeated_names(draft: Draft) -> Iterator[Fault]:
    first: dict[object, int] = {}
    for place, model in draft.model_names.items():
        if (other := first.setdefault(model, place)) != place:
            yield Fault(("models", place, "name"), f"'{model}' is the name of models[{other}] already")
    first = {}
    for place, (of, name) in draft.adapter_names.items():
        if of is not None and (other := first.setdefault((of, name), place)) != place:
            message = f"'{name}' is the name of adapters[{other}] already, for the same model"
            yield Fault(("adapters", place, "name"), message)
    for bot in draft.bots:
        if bot in draft.model_names.values():
            yield Fault(("bots", bot), "is the name of a model too, so a request could mean either")


def _adapters(draft: Draft) -> Iterator[Fault]:
    models = draft.models_by_name
    for place, (of, _) in draft.adapter_names.items():
        loc = ("adapters", place, "model")
        if of is None:
            continue
        if of not in draft.model_names.values():
            yield from _unknown_model(draft, loc, of)
        elif of in models and (reason := models[of].why_no_adapters):
            yield Fault(loc, f"model '{of}' takes no adapters: {reason}")


def _preloads(draft: Draft) -> Iterator[Fault]:
    slots = {name: model.adapter_slots for name, model in draft.models_by_name.items()}
    preloaded: Counter[str] = Counter()
    for place, adapter in draft.adapters.items():
        if not adapter.preload or not slots.get(adapter.model):
            continue
        preloaded[adapter.model] += 1
        if preloaded[adapter.model] == slots[adapter.model] + 1:
            message = f"model '{adapter.model}' has room for {slots[adapter.model]} adapters (engine.max_cpu_loras)"
            yield Fault(("adapters", place, "preload"), message)


def _fallbacks(draft: Draft) -> Iterator[Fault]:
    for place, model in draft.models.items():
        for index, other in enumerate(model.fallback_models):
            loc = ("models", place, "fallback_models", index)
            if other == model.name:
                yield Fault(loc, "is the model itself")
            elif other not in draft.model_names.values():
                yield from _unknown_model(draft, loc, other)
    for name, bot in draft.bots.items():
        for index, other in enumerate(bot.fallback_models or ()):
            if other not in draft.model_names.values():
                yield from _unknown_model(draft, ("bots", name, "fallback_models", index), other)


def _bots(draft: Draft) -> Iterator[Fault]:
    models_by_adapter: dict[str, set[str | None]] = {}
    for of, name in draft.adapter_names.values():
        models_by_adapter.setdefault(name, set()).add(of)
    for name, bot in draft.bots.items():
        if bot.model in draft.model_names.values():
            yield from _bot_adapters(draft, name, bot, models_by_adapter)
        else:
            yield from _unknown_model(draft, ("bots", name, "model"), bot.model)


def _bot_adapters(
    draft: Draft, name: str, bot: BotConfig, models_by_adapter: Mapping[str, set[str | None]]
) -> Iterator[Fault]:
    taken: dict[str | None, str] = {}
    models = draft.models_by_name
    own = models[bot.model].fallback_models if bot.model in models else ()
    asked = {bot.model, *(own if bot.fallback_models is None else bot.fallback_models)}
    for index, adapter in enumerate(bot.adapters):
        loc = ("bots", name, "adapters", index)
        of = models_by_adapter.get(adapter, set())
        if mine := asked & of:
            for model in sorted(mine):
                other = taken.setdefault(model, adapter)
                if other != adapter:
                    yield Fault(loc, f"a bot has one adapter for a model, and '{other}' is one for '{model}' already")
        elif of and None not in of:
            owners = ", ".join(f"'{model}'" for model in sorted(filter(None, of)))
            yield Fault(loc, f"adapter '{adapter}' is for {owners}, and this bot's model is '{bot.model}'")
        elif not of and draft.names_complete:
            yield Fault(loc, f"there is no adapter '{adapter}'{nearest(adapter, models_by_adapter)}")


def _unknown_model(draft: Draft, loc: tuple[str | int, ...], model: str) -> Iterator[Fault]:
    if draft.names_complete:
        yield Fault(loc, f"there is no model '{model}'{nearest(model, draft.model_names.values())}")
