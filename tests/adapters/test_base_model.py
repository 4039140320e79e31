from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.base_model import BaseModel
from tests.adapters.files import BASE_CONFIG, Q_PROJ, SHAPES, Tensors, ones, write_base


def test_layers_are_the_checkpoints_two_dimensional_weights(base_path: Path) -> None:
    assert BaseModel.read(base_path).modules == SHAPES


def test_without_safetensors_the_configuration_tells_the_same(base_path: Path) -> None:
    (base_path / "model.safetensors").unlink()
    assert BaseModel.read(base_path).modules == SHAPES


def test_the_language_model_of_a_multimodal_one(base_path: Path) -> None:
    (base_path / "model.safetensors").unlink()
    (base_path / "config.json").write_text(json.dumps({"text_config": BASE_CONFIG, "vision_config": {}}))
    assert BaseModel.read(base_path).modules == SHAPES


def test_an_explicit_head_size_counts(base_path: Path) -> None:
    (base_path / "model.safetensors").unlink()
    (base_path / "config.json").write_text(json.dumps(BASE_CONFIG | {"head_dim": 16}))
    assert BaseModel.read(base_path).modules[Q_PROJ] == (64, 8)


def test_packed_weights_have_the_configurations_shape_or_none(base_path: Path) -> None:
    packed: Tensors = {f"{Q_PROJ}.qweight": np.ones((1, 8), np.int32), "other.weight": np.ones((4, 1), np.uint8)}
    save_file(packed, base_path / "model.safetensors")
    assert BaseModel.read(base_path).modules == {Q_PROJ: SHAPES[Q_PROJ], "other": None}


def test_of_several_files_those_in_the_index_count(base_path: Path) -> None:
    (base_path / "model.safetensors").unlink()
    save_file({"a.weight": ones(2, 2)}, base_path / "model-1.safetensors")
    save_file({"b.weight": ones(3, 3)}, base_path / "model-2.safetensors")
    save_file({"layers.0.wq.weight": ones(2, 2)}, base_path / "consolidated.safetensors")
    assert BaseModel.read(base_path).modules == {"a": (2, 2), "b": (3, 3)}
    index = {"weight_map": {"a.weight": "model-1.safetensors"}}
    (base_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert BaseModel.read(base_path).modules == {"a": (2, 2)}


@pytest.mark.parametrize(
    "config", [{}, [], {"hidden_size": "8"}, BASE_CONFIG | {"num_hidden_layers": 10**9}, {"vocab_size": True}]
)
def test_a_base_that_tells_nothing_has_no_layers(tmp_path: Path, config: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert BaseModel.read(tmp_path).modules == {}


def test_a_folder_without_any_of_it(tmp_path: Path) -> None:
    assert BaseModel.read(tmp_path).modules == {}


def test_a_base_that_cannot_be_read_is_the_operators_fault(base_path: Path) -> None:
    write_base(base_path)
    (base_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="header"):
        BaseModel.read(base_path)
