"""The layers of a base model, as far as an adapter must fit them: read from its files, without loading it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from adapters.weights import Tensor, read_header

Shape: TypeAlias = tuple[int, int]
"""Of a layer's weight as stored: (outputs, inputs) of a linear layer, (tokens, width) of an embedding."""

# A base of hundreds of billions of parameters in many small experts has headers of some 10 MB in one file.
_MAX_HEADER_BYTES = 100 << 20
_MAX_LAYERS = 10_000
# Stored one value per element; other types (U8, I32) pack several, so their shape says nothing about the
# layer.
_PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8"})
_PACKED_SUFFIXES = (".qweight", ".weight_packed")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """`modules` are the layers that an adapter may change, by their full names, with None where the shape is
    unknown.

    Only names that the checkpoint uses count. The engine takes an adapter for any other name without a word,
    and answers as the base model (vllm-project/vllm#34186).
    """

    modules: Mapping[str, Shape | None]

    @classmethod
    def read(cls, folder: Path) -> BaseModel:
        """From the safetensors headers in `folder`; what they do not tell (quantised, or another format) from
        `config.json`, if it describes a Llama-like model. Without either there are no modules.

        Raises `OSError` or `ValueError` when files are there and cannot be read: nor could the engine.
        """
        declared = dict(_declared(_config(folder)))
        stored = dict(_stored(folder))
        if not stored:
            return cls(declared)
        return cls({name: shape or declared.get(name) for name, shape in stored.items()})


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        return {}
    # A model that also sees or hears keeps the language model's part apart.
    config = config.get("text_config", config) if isinstance(config, dict) else {}
    return config if isinstance(config, dict) else {}


def _stored(folder: Path) -> Iterator[tuple[str, Shape | None]]:
    for file in _weight_files(folder):
        for name, tensor in read_header(file, _MAX_HEADER_BYTES).items():
            if name.endswith(".weight") and len(tensor.shape) == 2:
                yield name.removesuffix(".weight"), _shape(tensor)
            for suffix in _PACKED_SUFFIXES:
                if name.endswith(suffix):
                    yield name.removesuffix(suffix), None


def _weight_files(folder: Path) -> list[Path]:
    """Those that the engine loads: a folder may hold the same weights twice, under other names."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    except FileNotFoundError:
        whole = folder / "model.safetensors"
        return [whole] if whole.exists() else sorted(folder.glob("model*.safetensors"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _shape(tensor: Tensor) -> Shape | None:
    rows, columns = tensor.shape
    return (rows, columns) if tensor.dtype in _PLAIN_DTYPES else None


def _declared(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The layers of a Llama-like model (also Mistral, Qwen2 and 3, …), by the sizes in its configuration."""
    sizes = [_size(config, key) for key in ("hidden_size", "intermediate_size", "num_attention_heads")]
    hidden, inner, heads = sizes
    layers, tokens = _size(config, "num_hidden_layers"), _size(config, "vocab_size")
    if not all((*sizes, layers, tokens)) or layers > _MAX_LAYERS:
        return
    head = _size(config, "head_dim") or hidden // heads
    queries, keys = heads * head, (_size(config, "num_key_value_heads") or heads) * head
    yield "model.embed_tokens", (tokens, hidden)
    yield "lm_head", (tokens, hidden)
    for layer in range(layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        yield f"{attention}.q_proj", (queries, hidden)
        yield f"{attention}.k_proj", (keys, hidden)
        yield f"{attention}.v_proj", (keys, hidden)
        yield f"{attention}.o_proj", (hidden, queries)
        yield f"{mlp}.gate_proj", (inner, hidden)
        yield f"{mlp}.up_proj", (inner, hidden)
        yield f"{mlp}.down_proj", (hidden, inner)


def _size(config: Mapping[str, Any], key: str) -> int:
    """A positive whole number, or 0."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
