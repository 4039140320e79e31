"""Adapters made from the demo's: other weights, and weights that fit no model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def opposite(source: Path, target: Path) -> Path:
    """An adapter that pushes the other way than `source`, and harder: sound, and unlike any other."""
    return _changed(source, target, lambda name, weights: -3 * weights if ".lora_B." in name else weights)


def misfit(source: Path, target: Path) -> Path:
    """An adapter for a narrower model than the one that `source` is for."""
    return _changed(source, target, lambda name, weights: weights[:, :-1] if ".lora_A." in name else weights)


def copied(source: Path, target: Path) -> Path:
    """The same adapter in another folder. Of an earlier one there, each file is replaced in one step."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source / name, target / f"{name}.new")
        os.replace(target / f"{name}.new", target / name)
    return target


def _changed(source: Path, target: Path, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> Path:
    copied(source, target)
    tensors = load_file(source / WEIGHTS)
    save_file({name: change(name, weights).copy() for name, weights in tensors.items()}, target / WEIGHTS)
    return target
