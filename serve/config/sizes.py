"""How much memory a model takes, as far as its files and its configuration tell."""

from __future__ import annotations

import json
from pathlib import Path

from serve.config.base import GIB
from serve.config.models import EngineConfig

INDEX = "model.safetensors.index.json"


def size_in_memory(weights: Path, engine: EngineConfig) -> int:
    """Bytes of a model's weights, all of them in `weights`, and of its KV cache.

    Where there is an index, what it does not name is not loaded: some models come with their weights twice
    (`consolidated.safetensors`). Source: vLLM's `filter_duplicate_safetensors_files`.
    """
    named = _named_by_index(weights / INDEX)
    files = [file for file in weights.rglob("*.safetensors") if not named or str(file.relative_to(weights)) in named]
    return sum(file.stat().st_size for file in files if file.is_file()) + int((engine.kv_cache_gib or 0) * GIB)


def _named_by_index(index: Path) -> frozenset[str]:
    """Empty where there is no index, or one that vLLM will refuse."""
    try:
        return frozenset(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return frozenset()
