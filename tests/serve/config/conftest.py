"""A small valid configuration on a disk of its own, and the faults of what a test makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from serve.config import load_args
from serve.errors import ConfigError

Args: TypeAlias = dict[str, Any]
Faults: TypeAlias = Callable[..., tuple[str, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the relative paths of `args` lead."""
    for path in (
        "demo/config.json",
        "other/config.json",
        "support/adapter_config.json",
        "sales/adapter_config.json",
    ):
        file = tmp_path / "models" / path
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    return tmp_path


@pytest.fixture
def args() -> Args:
    """Two models, of which `demo` takes adapters, an adapter each for the bots `support` and `sales`."""
    return {
        "models": [
            {"name": "demo", "provider": "local", "model_id": "models/demo", "engine": {"max_loras": 2}},
            {"name": "other", "provider": "local", "model_id": "models/other"},
        ],
        "adapters": [
            {"name": "support", "model": "demo", "source": "models/support"},
            {"name": "sales", "model": "demo", "versions": {"v1": "models/sales"}},
        ],
        "bots": {
            "support-bot": {"model": "demo", "adapters": ["support"]},
            "sales-bot": {"model": "demo", "adapters": ["sales"]},
        },
    }


@pytest.fixture
def faults(root: Path) -> Faults:
    """What loading these arguments reports; nothing when they are valid."""

    def load(args: Any, env: Mapping[str, str] | None = None, **options: Any) -> tuple[str, ...]:
        try:
            load_args(args, env=env or {}, root=root, **options)
        except ConfigError as error:
            return error.faults
        return ()

    return load
