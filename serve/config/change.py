"""A `user_config` put on top of settings: parsed, checked, all faults at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve.config.checks import check
from serve.config.draft import Draft
from serve.config.faults import Fault, nearest
from serve.config.live import LiveSettings, overlaid
from serve.config.parse import parse
from serve.config.references import expand


def changed(draft: Draft, user_config: Any, env: Mapping[str, str]) -> tuple[LiveSettings | None, list[Fault]]:
    """The live settings that come of it, None when they cannot be read, and every fault of the change.

    Paths are those of `user_config`: `models.demo.limits.max_in_flight`. What was wrong with `draft` before
    the change is not repeated.
    """
    data, faults = expand({} if user_config is None else user_config, env)
    data = overlaid(draft.live, data)
    live, wrong = parse(LiveSettings, data, faults)
    faults += wrong
    sound = live if live is not None else _sound(data, faults)
    names = draft.model_names.values()
    if draft.names_complete:
        unknown = [name for name in sound.models if name not in names]
        faults += [Fault(("models", name), f"there is no such model{nearest(name, names)}") for name in unknown]
    before = set(check(draft))
    after = check(draft.with_live(sound))
    faults += [_as_in_user_config(fault, draft) for fault in after if fault not in before]
    return live, faults


def _sound(data: Any, faults: Sequence[Fault]) -> LiveSettings:
    """What holds by itself: without the bots, the models and the limits that are at fault."""
    if not isinstance(data, dict):
        return LiveSettings()
    rest = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for key, entry in {(*fault.loc, "", "")[:2] for fault in faults}:
        table = rest.get(str(key))
        if key != "limits" and isinstance(table, dict) and entry in table:
            del table[entry]
        else:
            rest.pop(str(key), None)
    live, _ = parse(LiveSettings, rest)
    return live or LiveSettings()


def _as_in_user_config(fault: Fault, draft: Draft) -> Fault:
    match fault.loc:
        case ("models", int(place), *rest):
            return Fault(("models", draft.model_names[place], *rest), fault.message)
    return fault
