"""Small base models and adapters, written the way transformers and PEFT write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]

HIDDEN, INNER, HEADS, KV_HEADS, TOKENS, RANK = 8, 12, 4, 2, 32, 4
LAYER = "model.layers.0"
Q_PROJ = f"{LAYER}.self_attn.q_proj"

BASE_CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": 1,
    "vocab_size": TOKENS,
}
PEFT_CONFIG = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "base_model_name_or_path": "somewhere/else",
}
SHAPES = {
    Q_PROJ: (HIDDEN, HIDDEN),
    f"{LAYER}.self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    f"{LAYER}.self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    f"{LAYER}.self_attn.o_proj": (HIDDEN, HIDDEN),
    f"{LAYER}.mlp.gate_proj": (INNER, HIDDEN),
    f"{LAYER}.mlp.up_proj": (INNER, HIDDEN),
    f"{LAYER}.mlp.down_proj": (HIDDEN, INNER),
    "model.embed_tokens": (TOKENS, HIDDEN),
    "lm_head": (TOKENS, HIDDEN),
}


def ones(*shape: int) -> NDArray[Any]:
    return np.ones(shape, np.float32)


def write_base(folder: Path, shapes: dict[str, tuple[int, int]] | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"{name}.weight": ones(*shape) for name, shape in (shapes or SHAPES).items()}
    weights[f"{LAYER}.input_layernorm.weight"] = ones(HIDDEN)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG | config))
    return folder


def lora(
    module: str = Q_PROJ, rows: int = HIDDEN, columns: int = HIDDEN, rank: int = RANK, value: float = 1.0
) -> Tensors:
    """The matrices of one module, as PEFT names them."""
    name = f"base_model.model.{module}"
    return {
        f"{name}.lora_A.weight": ones(rank, columns) * np.float32(value),
        f"{name}.lora_B.weight": ones(rows, rank) * np.float32(value),
    }


def write_adapter(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora() if tensors is None else tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PEFT_CONFIG | config))
    return folder
