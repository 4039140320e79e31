"""What a model takes of a replica's memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve.config import EngineConfig, size_in_memory
from serve.config.sizes import INDEX

ENGINE = EngineConfig()


def weights(folder: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        (folder / f"{name}.safetensors").write_bytes(bytes(size))
    return folder


def index(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)


def test_all_weights_and_the_kv_cache(tmp_path: Path) -> None:
    weights(tmp_path, model=5)
    (tmp_path / "dense").mkdir()
    weights(tmp_path / "dense", model=2)
    assert size_in_memory(tmp_path, ENGINE) == 7
    assert size_in_memory(tmp_path, EngineConfig(kv_cache_gib=2)) == 7 + 2 * 1024**3


def test_weights_that_are_there_twice_count_once(tmp_path: Path) -> None:
    weights(tmp_path, **{"model-1-of-2": 3, "model-2-of-2": 4, "consolidated": 7})
    index(tmp_path, json.dumps({"weight_map": {f"model-{n}-of-2": f"model-{n}-of-2.safetensors" for n in (1, 2)}}))
    assert size_in_memory(tmp_path, ENGINE) == 7


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "{}", '{"weight_map": []}', '{"weight_map": {"x": []}}'])
def test_an_index_that_cannot_be_read_leaves_nothing_out(tmp_path: Path, text: str) -> None:
    weights(tmp_path, model=5, consolidated=5)
    index(tmp_path, text)
    assert size_in_memory(tmp_path, ENGINE) == 10


def test_a_link_that_leads_nowhere_takes_nothing(tmp_path: Path) -> None:
    weights(tmp_path, model=5)
    (tmp_path / "more.safetensors").symlink_to(tmp_path / "gone")
    assert size_in_memory(tmp_path, ENGINE) == 5


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert size_in_memory(tmp_path / "later", ENGINE) == 0
