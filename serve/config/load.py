"""`args` of `serve_config.yaml` → `Settings`, or every fault at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve.config.checks import check
from serve.config.draft import Draft, is_keyless
from serve.config.faults import Fault, lines
from serve.config.hosted import with_missing_keys
from serve.config.parse import parse
from serve.config.paths import path_faults, resolved
from serve.config.references import expand
from serve.config.settings import Settings
from serve.errors import ConfigError


class Examined(NamedTuple):
    """`settings` is None when there are faults; `draft` then holds what is sound.

    `keyless`: there is no client key, for certain.
    """

    settings: Settings | None
    draft: Draft
    keyless: bool
    faults: list[Fault]


def load_args(
    args: Mapping[str, Any],
    *,
    source: str = "serve_config.yaml",
    env: Mapping[str, str] = os.environ,
    root: Path | None = None,
    check_paths: bool = True,
) -> Settings:
    """The settings that `args` describe, with references replaced and paths made absolute.

    Relative paths start at `root`, the working directory by default. `check_paths=False` is for a process on
    another machine than the models'. Raises `ConfigError` with every fault; none shows a secret.
    """
    found = examine(args, env=env, root=root, check_paths=check_paths)
    if found.settings is None:
        raise ConfigError(source, lines(found.faults))
    return found.settings


def examine(args: Any, *, env: Mapping[str, str], root: Path | None, check_paths: bool) -> Examined:
    """`load_args` for a caller that has more to check before it says what is wrong."""
    root = Path.cwd() if root is None else root
    data, faults = expand(with_missing_keys(args, env), env)
    settings, wrong = parse(Settings, data, faults)
    faults += wrong
    if settings is None or faults:
        settings, draft = None, Draft.salvaged(data, faults)
    else:
        draft = Draft.sound(settings.models, settings.adapters, settings.bots, settings.limits)
    keyless = is_keyless(data, faults)
    faults += check(draft)
    faults += path_faults(draft, root, look=check_paths)
    if settings is None or faults:
        return Examined(None, draft, keyless, faults)
    return Examined(resolved(settings, root), draft, keyless, faults)
