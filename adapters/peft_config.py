"""`adapter_config.json`: which adapters the engine applies exactly as they were trained.

The rules are vLLM 0.32's (`vllm/lora/peft_helper.py`), plus the variants of PEFT 0.21 that vLLM would load as
plain LoRA without a word and so answer differently from what was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.snapshots import MAX_CONFIG_BYTES
from serve.errors import AdapterUnusable
from serve.quoting import quoted

# Each is absent or falsy in a plain LoRA.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "lora_bias": "a bias of LoRA's own (lora_bias)",
    "alora_invocation_tokens": "Activated LoRA (alora_invocation_tokens)",
    "layer_replication": "replicated layers (layer_replication)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "use_qalora": "QALoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
    "arrow_config": "Arrow routing",
}
# Ways to start training that change the base model's weights are refused; these only set the adapter's own.
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})

_MAX_ALPHA = 1_000_000
"""Far above what anybody trains with, and below what overflows in the engine's arithmetic."""

_MAX_PATTERN_CHARS = 512
_MAX_WILDCARDS = 2
# Patterns are regular expressions, which the engine matches too and which nothing can stop once they run. What
# multiplies the ways to match is bounded: wildcards by their count, groups to two in each choice, of plain names.
_PLAIN_NAME = r"(?: [\w.-] | \\[.\-d] )++"
_PLAIN_TEXT = r"(?: \.\* | [\w.-] | \\[.\-d] )*+"
_PLAIN_GROUP = rf"\( {_PLAIN_NAME} (?: \| {_PLAIN_NAME} )*+ \)"
_PLAIN_CHOICE = rf"\^?+ {_PLAIN_TEXT} (?: {_PLAIN_GROUP} {_PLAIN_TEXT} ){{0,2}}+ \$?+"
_PLAIN_PATTERN = re.compile(rf"{_PLAIN_CHOICE} (?: \| {_PLAIN_CHOICE} )*+", re.VERBOSE)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    rank: int
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    """Ranks of single modules, by a regular expression for the module's name."""
    fan_in_fan_out: bool
    """The base stores its linear weights as (inputs, outputs), as GPT-2 does."""

    def rank_of(self, module: str) -> int:
        """By vLLM's and PEFT's rule: the first pattern that matches from a `.` to the end of the name."""
        return next((rank for pattern, rank in self.ranks if pattern.match(module)), self.rank)


def read_config(path: Path, max_rank: int) -> PeftConfig:
    """Raises `AdapterUnusable` unless the engine applies such an adapter as it was trained."""
    config = _read_object(path)
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise AdapterUnusable(f"Its peft_type is {quoted(str(config['peft_type']))}; only LORA is supported.")
    for key in ("r", "lora_alpha", "target_modules"):
        if config.get(key) is None:
            raise AdapterUnusable(f"Its configuration lacks {key}.")
    _refuse_variants(config)
    ranks = _patterns(config, "rank_pattern")
    for rank in (config["r"], *ranks.values()):
        _check_rank(rank, max_rank)
    for alpha in (config["lora_alpha"], *_patterns(config, "alpha_pattern").values()):
        _check_alpha(alpha)
    compiled = tuple((re.compile(rf"(.*\.)?({pattern})$"), rank) for pattern, rank in ranks.items())
    return PeftConfig(config["r"], compiled, bool(config.get("fan_in_fan_out")))


def _read_object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterUnusable(f"Its configuration is longer than {MAX_CONFIG_BYTES} bytes.")
    try:
        config = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ):  # ValueError: not JSON, not UTF-8, or a number of thousands of digits
        raise AdapterUnusable("Its configuration is not valid JSON.") from None
    if not isinstance(config, dict):
        raise AdapterUnusable("Its configuration is not a JSON object.")
    return config


def _refuse_variants(config: Mapping[str, Any]) -> None:
    for key, what in _UNSUPPORTED.items():
        if config.get(key):
            raise AdapterUnusable(f"It uses {what}, which the engine does not support.")
    if config.get("bias", "none") != "none":
        raise AdapterUnusable("It trains biases (bias), which the engine does not support.")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise AdapterUnusable(
            f"It was initialised with {quoted(init)}, which changes the base model's weights; convert it to "
            "a plain LoRA with PEFT's path_initial_model_for_weight_conversion."
        )


def _patterns(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterUnusable(f"Its {key} is not a JSON object.")
    for pattern in patterns:
        short = len(pattern) <= _MAX_PATTERN_CHARS and pattern.count("*") <= _MAX_WILDCARDS
        if not (short and _PLAIN_PATTERN.fullmatch(pattern)):
            raise AdapterUnusable(
                f"Its {key} has a key that is neither a module's name nor one with at most {_MAX_WILDCARDS} '.*' and "
                f"a choice such as '(q|v)_proj': {quoted(pattern)}."
            )
    return patterns


def _check_rank(rank: object, max_rank: int) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise AdapterUnusable("Its rank is not a positive whole number.")
    if rank > max_rank:
        raise AdapterUnusable(f"Its rank is {rank}; the engine takes at most {max_rank}.")


def _check_alpha(alpha: object) -> None:
    # No arithmetic before the comparison: an integer may be larger than any float.
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not -_MAX_ALPHA <= alpha <= _MAX_ALPHA:
        raise AdapterUnusable(f"Its lora_alpha is not a number from -{_MAX_ALPHA} to {_MAX_ALPHA}.")
    if alpha == 0:
        raise AdapterUnusable("Its lora_alpha is 0: it would answer exactly as the base model.")
