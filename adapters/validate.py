"""Whether an adapter fits its base model: decided from its files, before the engine is touched.

The engine checks ranks and the last part of module names. Everything else it takes on trust: an adapter of
another base then ends in a crash, in noise, or worst in the base model's own answers under the adapter's name
(vllm-project/vllm#34186). Here every one of those is an `AdapterUnusable` with its own message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from adapters.base_model import BaseModel, Shape
from adapters.peft_config import PeftConfig, read_config
from adapters.sources import CONFIG_FILE, WEIGHTS_FILE
from adapters.weights import FLOAT_DTYPES, BadHeader, Tensor, read_header, survey
from serve.errors import AdapterUnusable
from serve.quoting import quoted

# PEFT's names, of which vLLM accepts these (`vllm/lora/utils.py`, parse_fine_tuned_lora_name).
_LORA_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?:lora_(?P<matrix>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))"
)
# PEFT saves the base's own embeddings along with adapters that touch them; vLLM skips these.
_BASE_COPY = re.compile(r"(?:base_model\.model\.)?(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.base_layer\.weight")


def validate(folder: Path, base: BaseModel, max_rank: int) -> None:
    """Raises `AdapterUnusable` unless the adapter in `folder` (a snapshot: it must not change) is sound."""
    config = read_config(folder / CONFIG_FILE, max_rank)
    try:
        tensors = read_header(folder / WEIGHTS_FILE)
    except BadHeader as error:
        raise AdapterUnusable(f"Its weights cannot be read: {error}") from None
    pairs = _pairs(tensors, base)
    for (module, embedding), pair in pairs.items():
        _check_shapes(module, pair, _fit(module, embedding, base, config), config.rank_of(module))
    _check_values(folder / WEIGHTS_FILE, pairs)


_Module = tuple[str, bool]  # the module's name, and whether it is an embedding
_Pair = dict[str, tuple[str, Tensor]]  # matrix ("A", "B") -> the tensor and its name


def _pairs(tensors: Mapping[str, Tensor], base: BaseModel) -> dict[_Module, _Pair]:
    """The matrices A and B of each module. Any other tensor would be dropped in silence, so it is refused."""
    if not base.modules:
        raise AdapterUnusable("The base model's layers are not known, so nothing can be checked against them.")
    pairs: dict[_Module, _Pair] = {}
    for name, tensor in tensors.items():
        if copy := _BASE_COPY.fullmatch(name):
            _check_base_copy(copy["module"], tensor, base)
            continue
        found = _LORA_NAME.fullmatch(name)
        if found is None:
            raise AdapterUnusable(f"Its tensor {quoted(name)} is not a matrix of a plain LoRA.")
        module, embedding = found["module"], found["embedding"]
        pair = pairs.setdefault((module, embedding is not None), {})
        matrix = embedding or found["matrix"]
        if matrix in pair:
            raise AdapterUnusable(f"It has two matrices {matrix} for {quoted(module)}.")
        pair[matrix] = (name, tensor)
    _check_complete(pairs)
    return pairs


def _check_complete(pairs: Mapping[_Module, _Pair]) -> None:
    if not pairs:
        raise AdapterUnusable("It has no weights.")
    for (module, _), pair in pairs.items():
        for matrix in {"A", "B"} - pair.keys():
            raise AdapterUnusable(f"It has no matrix {matrix} for {quoted(module)}.")


def _check_base_copy(module: str, tensor: Tensor, base: BaseModel) -> None:
    expected = base.modules.get(module)
    if expected is not None and tensor.shape != expected:
        raise AdapterUnusable(
            f"It was trained with another vocabulary: its {quoted(module)} is {_by(tensor.shape)}, the base "
            f"model's {_by(expected)}."
        )


def _fit(module: str, embedding: bool, base: BaseModel, config: PeftConfig) -> Shape | None:
    """(outputs, inputs) of the base's layer; None if the layer is there and its shape is not known."""
    if module not in base.modules:
        raise AdapterUnusable(f"The base model has no layer {quoted(module)}: the adapter is another model's.")
    stored = base.modules[module]
    if stored is not None and (embedding or config.fan_in_fan_out):
        return stored[1], stored[0]
    return stored


def _check_shapes(module: str, pair: _Pair, layer: Shape | None, rank: int) -> None:
    for name, tensor in pair.values():
        if tensor.dtype not in FLOAT_DTYPES:
            kinds = ", ".join(sorted(FLOAT_DTYPES))
            raise AdapterUnusable(f"Its tensor {quoted(name)} has the type {tensor.dtype}; only {kinds} are loaded.")
        if len(tensor.shape) != 2:
            raise AdapterUnusable(f"Its tensor {quoted(name)} has {len(tensor.shape)} dimensions instead of 2.")
    a, b = pair["A"][1], pair["B"][1]
    if a.shape[0] != b.shape[1]:
        raise AdapterUnusable(
            f"Its matrices A and B for {quoted(module)} do not match: ranks {a.shape[0]} and {b.shape[1]}."
        )
    if a.shape[0] != rank:
        raise AdapterUnusable(
            f"Its weights for {quoted(module)} have rank {a.shape[0]}, its configuration says {rank}."
        )
    made_for = (b.shape[0], a.shape[1])
    if layer is not None and made_for != layer:
        raise AdapterUnusable(
            f"Its weights for {quoted(module)} are made for a layer of {_by(made_for)}, the base model's is "
            f"{_by(layer)}: the adapter is another model's."
        )


def _check_values(weights: Path, pairs: Mapping[_Module, _Pair]) -> None:
    """No value may be infinite or NaN, and at least one module's product B·A must not be all zero."""
    effective = False
    for pair in pairs.values():
        nonzero = [_nonzero(weights, name, tensor) for name, tensor in pair.values()]
        effective = effective or all(nonzero)
    if not effective:
        raise AdapterUnusable("Its weights are all zero: it would answer exactly as the base model.")


def _nonzero(weights: Path, name: str, tensor: Tensor) -> bool:
    values = survey(weights, tensor)
    if not values.finite:
        raise AdapterUnusable(f"Its tensor {quoted(name)} holds values that are infinite or not a number.")
    return values.nonzero


def _by(shape: Iterable[int]) -> str:
    return " × ".join(str(size) for size in shape)
