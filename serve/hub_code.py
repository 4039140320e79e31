"""Whose Python code a snapshot would have run: its own, at the pinned commit, or another repository's.

In `auto_map` a class is `file.Class`, or `org/name--file.Class`. The latter makes transformers 5 fetch `org/name` at
whatever it is that day (`transformers.dynamic_module_utils.get_class_from_dynamic_module`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve.hub_cache import HubModel


def check_code(model: HubModel, snapshot: Path) -> None:
    """Raises `ConfigError` where a configuration in `snapshot` names code of another repository, or cannot be read."""
    for file in sorted(snapshot.rglob("*config.json")):
        name = file.relative_to(snapshot).as_posix()
        try:
            classes = list(_classes(json.loads(file.read_bytes())))
        except (ValueError, RecursionError):
            raise model.refused(f"with trust_remote_code, its {name} must be JSON") from None
        for found in classes:
            if "--" in found:
                other = found.partition("--")[0][:100]
                raise model.refused(
                    f"its {name} runs code of another repository, {other!r}, at no fixed commit; "
                    "trust_remote_code is for code of its own revision only"
                )


def _classes(value: Any, *, mapped: bool = False) -> Iterator[str]:
    """The texts below each `auto_map`, wherever it stands: parts of a model have configurations within the whole."""
    if isinstance(value, str) and mapped:
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _classes(inner, mapped=mapped or name == "auto_map")
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner, mapped=mapped)
