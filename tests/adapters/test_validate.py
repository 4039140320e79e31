"""The corpus of adapters that must not reach an engine: each is refused, and each for a reason of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.base_model import BaseModel
from adapters.sources import CONFIG_FILE, WEIGHTS_FILE
from adapters.validate import validate
from serve.errors import AdapterUnusable
from tests.adapters.files import (
    BASE_CONFIG,
    HIDDEN,
    INNER,
    LAYER,
    PEFT_CONFIG,
    Q_PROJ,
    RANK,
    SHAPES,
    TOKENS,
    Tensors,
    lora,
    ones,
    write_adapter,
)

MAX_RANK = 8
PREFIX = f"base_model.model.{Q_PROJ}"

Break = Callable[[Path], Any]


def configured(**config: Any) -> Break:
    return lambda folder: write_adapter(folder, **config)


def weighing(tensors: Tensors, **config: Any) -> Break:
    return lambda folder: write_adapter(folder, tensors, **config)


def config_text(text: str | bytes) -> Break:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / CONFIG_FILE).write_bytes(data)


def cut_short(folder: Path) -> None:
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])


def without(*keys: str) -> Break:
    return config_text(json.dumps({key: value for key, value in PEFT_CONFIG.items() if key not in keys}))


def at(place: int, value: float) -> Tensors:
    tensors = lora()
    tensors[f"{PREFIX}.lora_B.weight"].flat[place] = value
    return tensors


BROKEN: dict[str, tuple[Break, str]] = {
    # Its configuration.
    "not JSON": (config_text("{"), "not valid JSON"),
    "not UTF-8": (config_text(b'{"r": "\xff"}'), "not valid JSON"),
    "nested too deep": (config_text("[" * 200_000), "not valid JSON"),
    "a number of 5000 digits": (config_text("1" * 5000), "not valid JSON"),
    "not an object": (config_text("[]"), "not a JSON object"),
    "too long": (config_text(" " * (2 << 20)), "longer than 1048576 bytes"),
    "not LoRA": (configured(peft_type="IA3"), "peft_type is 'IA3'"),
    "no rank": (without("r"), "lacks r"),
    "no alpha": (without("lora_alpha"), "lacks lora_alpha"),
    "no target": (without("target_modules"), "lacks target_modules"),
    "rank too high": (configured(r=16), "rank is 16; the engine takes at most 8"),
    "one rank too high": (configured(rank_pattern={"q_proj": 9}), "rank is 9"),
    "rank zero": (configured(r=0), "rank is not a positive whole number"),
    "rank that is no number": (configured(r="8"), "rank is not a positive whole number"),
    "rank that is a truth value": (configured(r=True), "rank is not a positive whole number"),
    "rank_pattern that is a list": (configured(rank_pattern=[8]), "rank_pattern is not a JSON object"),
    "a pattern of its own kind": (configured(rank_pattern={"(a+)+$": 4}), "rank_pattern has a key that is neither"),
    "a pattern that is none": (configured(alpha_pattern={"(": 4}), "alpha_pattern has a key that is neither"),
    "alpha NaN": (configured(lora_alpha=float("nan")), "lora_alpha is not a number from -1000000 to 1000000"),
    "alpha text": (configured(lora_alpha="8"), "lora_alpha is not a number"),
    "alpha infinite": (configured(lora_alpha=float("-inf")), "lora_alpha is not a number"),
    "alpha no float can hold": (configured(lora_alpha=10**400), "lora_alpha is not a number"),
    "one alpha no float can hold": (configured(alpha_pattern={"q_proj": 10**400}), "lora_alpha is not a number"),
    "alpha zero": (configured(lora_alpha=0), "lora_alpha is 0"),
    "DoRA": (configured(use_dora=True), "uses DoRA"),
    "whole modules": (configured(modules_to_save=["score"]), "modules_to_save"),
    "biases": (configured(bias="all"), "trains biases"),
    "a bias of LoRA's": (configured(lora_bias=True), "bias of LoRA's own"),
    "trained tokens": (configured(trainable_token_indices=[1]), "trained tokens"),
    "parameters": (configured(target_parameters=["experts.gate_up_proj"]), "LoRA on parameters"),
    "aLoRA": (configured(alora_invocation_tokens=[1]), "Activated LoRA"),
    "replicated layers": (configured(layer_replication=[[0, 1]]), "replicated layers"),
    "BD-LoRA": (configured(use_bdlora={"nblocks": 2}), "block-diagonal"),
    "QALoRA": (configured(use_qalora=True), "QALoRA"),
    "KaSA": (configured(kasa_config={"beta": 1}), "KaSA"),
    "Monte Carlo": (configured(monteclora_config={"n": 1}), "Monte Carlo"),
    "Arrow": (configured(arrow_config={"top_k": 1}), "Arrow"),
    "PiSSA": (configured(init_lora_weights="pissa_niter_4"), "initialised with 'pissa_niter_4'"),
    # Its weights.
    "cut short": (cut_short, "damaged, cut short"),
    "a huge header": (
        lambda folder: (folder / WEIGHTS_FILE).write_bytes((2**63).to_bytes(8, "little")),
        "header says it is 9223372036854775808 bytes",
    ),
    "no weights": (weighing({}), "has no weights"),
    "only A": (weighing({f"{PREFIX}.lora_A.weight": ones(RANK, HIDDEN)}), "no matrix B"),
    "only B": (weighing({f"{PREFIX}.lora_B.weight": ones(HIDDEN, RANK)}), "no matrix A"),
    "A twice": (weighing(lora() | {f"{Q_PROJ}.lora_A.weight": ones(RANK, HIDDEN)}), "two matrices A"),
    "DoRA's magnitudes": (
        weighing(lora() | {f"{PREFIX}.lora_magnitude_vector": ones(HIDDEN)}),
        "lora_magnitude_vector' is not a matrix",
    ),
    "a name of PEFT's inside": (
        weighing({name.replace(".weight", ".default.weight"): value for name, value in lora().items()}),
        "default.weight' is not a matrix",
    ),
    "a name with control characters": (weighing({"a\n\x1b[31mb": ones(1)}), r"'a\n\x1b[31mb' is not"),
    "integers": (
        weighing({name: value.astype(np.int8) for name, value in lora().items()}),
        "type I8; only BF16, F16, F32",
    ),
    "three dimensions": (
        weighing(lora() | {f"{PREFIX}.lora_A.weight": ones(RANK, HIDDEN, 1)}),
        "3 dimensions instead of 2",
    ),
    "A and B of two ranks": (
        weighing(lora() | {f"{PREFIX}.lora_B.weight": ones(HIDDEN, RANK - 1)}),
        "do not match: ranks 4 and 3",
    ),
    "another rank than configured": (weighing(lora(rank=2)), "have rank 2, its configuration says 4"),
    "infinite": (weighing(at(-1, np.inf)), "infinite or not a number"),
    "not a number": (weighing(at(0, np.nan)), "infinite or not a number"),
    "all zero": (weighing(lora(value=0)), "weights are all zero"),
    "B all zero": (
        weighing(lora() | {f"{PREFIX}.lora_B.weight": ones(HIDDEN, RANK) * np.float32(0)}),
        "weights are all zero",
    ),
    # Its base.
    "another base's sizes": (
        weighing(lora(rows=16, columns=16)),
        "layer of 16 × 16, the base model's is 8 × 8",
    ),
    "more layers": (
        weighing(lora("model.layers.1.self_attn.q_proj")),
        "has no layer 'model.layers.1.self_attn",
    ),
    "another prefix": (weighing(lora(f"model.language_model.{Q_PROJ}")), "no layer 'model.language_model"),
    "a layer that is none": (weighing(lora(f"{LAYER}.input_layernorm")), "no layer 'model.layers.0.input_la"),
    "another vocabulary": (
        weighing(lora() | {"base_model.model.lm_head.base_layer.weight": ones(TOKENS + 1, HIDDEN)}),
        "another vocabulary: its 'lm_head' is 33 × 8",
    ),
}
SAME_REASON = {
    "not UTF-8",
    "nested too deep",
    "a number of 5000 digits",
    "rank that is no number",
    "rank that is a truth value",
    "alpha text",
    "alpha infinite",
    "alpha no float can hold",
    "one alpha no float can hold",
    "not a number",
    "B all zero",
}


def refusal(break_it: Break, folder: Path, base: BaseModel) -> str:
    write_adapter(folder)
    break_it(folder)
    with pytest.raises(AdapterUnusable) as caught:
        validate(folder, base, MAX_RANK)
    return caught.value.message


@pytest.mark.parametrize(("break_it", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_adapter_is_refused(tmp_path: Path, base: BaseModel, break_it: Break, why: str) -> None:
    message = refusal(break_it, tmp_path / "adapter", base)
    assert why in message
    assert message.endswith(".")
    assert str(tmp_path) not in message


def test_each_fault_has_a_message_of_its_own(tmp_path: Path, base: BaseModel) -> None:
    faults = {name: how for name, (how, _) in BROKEN.items() if name not in SAME_REASON}
    messages = {refusal(how, tmp_path / str(index), base) for index, how in enumerate(faults.values())}
    assert len(messages) == len(faults) > 40


def sound(tmp_path: Path, base: BaseModel, tensors: Tensors | None = None, **config: Any) -> None:
    validate(write_adapter(tmp_path / "adapter", tensors, **config), base, MAX_RANK)


def test_a_plain_adapter_passes(tmp_path: Path, base: BaseModel) -> None:
    sound(tmp_path, base)


def test_every_layer_of_the_base_may_be_adapted(tmp_path: Path, base: BaseModel) -> None:
    tensors: Tensors = {}
    for module, shape in SHAPES.items():
        if module != "model.embed_tokens":
            tensors |= lora(module, *shape)
    name = "base_model.model.model.embed_tokens"
    tensors |= {
        f"{name}.lora_embedding_A": ones(RANK, TOKENS),
        f"{name}.lora_embedding_B": ones(HIDDEN, RANK),
        f"{name}.base_layer.weight": ones(TOKENS, HIDDEN),
    }
    sound(tmp_path, base, tensors)


def test_names_without_pefts_prefix_pass(tmp_path: Path, base: BaseModel) -> None:
    sound(tmp_path, base, {name.removeprefix("base_model.model."): value for name, value in lora().items()})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_pass(tmp_path: Path, base: BaseModel, dtype: type) -> None:
    sound(tmp_path, base, {name: value.astype(dtype) for name, value in lora().items()})


def test_one_module_without_effect_is_no_fault(tmp_path: Path, base: BaseModel) -> None:
    sound(tmp_path, base, lora() | lora(f"{LAYER}.self_attn.o_proj", value=0))


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.0.self_attn.q_proj",
        r".*self_attn\.q_proj",
        "^model.layers.0.self_attn.q_proj$",
        r"layers\.0\.self_attn\.q_proj",
        "layers.*attn.*q_proj",
        "(q|k|v)_proj",
        r".*\.(self_attn|cross-attn)\.q_proj",
        "k_proj|q_proj|self_attn.(q|v)_proj",
        "model.layers.(0|1).self_attn.(q|v)_proj",
        "(self_attn.q_proj|mlp.gate_proj)",
        r"layers\.\d\.self_attn\.q_proj",
    ],
)
def test_ranks_of_single_modules(tmp_path: Path, base: BaseModel, pattern: str) -> None:
    tensors = lora(rank=2) | lora(f"{LAYER}.mlp.up_proj", INNER, HIDDEN)
    sound(tmp_path, base, tensors, rank_pattern={pattern: 2}, alpha_pattern={pattern: 4.0})


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("(.|.|.)" * 30 + "x", id="choices of the same"),
        pytest.param("(q|k)(q|k)(q|k)", id="three groups"),
        pytest.param("(q|k)_(proj|attn)_(a|b)|(q|v)", id="three groups in one of two choices"),
        pytest.param("((q|k))_proj", id="a group in a group"),
        pytest.param("(.*|q)_proj", id="a wildcard in a group"),
        pytest.param("(q|k).*.*.*", id="three wildcards"),
        pytest.param("(q|k)*_proj", id="a repeated group"),
        pytest.param("q*_proj", id="a repeated letter"),
        pytest.param(r"layers\.*q_proj", id="a repeated dot"),
        pytest.param("q+_proj", id="repetition by a plus"),
        pytest.param("q{9}_proj", id="counted repetition"),
        pytest.param("[qk]_proj", id="a set"),
        pytest.param(r"\w_proj", id="a class"),
        pytest.param(r"(q)\1_proj", id="a back-reference"),
        pytest.param("q^_proj", id="an anchor inside"),
        pytest.param("q_proj\n", id="a line end"),
        pytest.param("q" * 513, id="too long"),
    ],
)
def test_keys_that_could_keep_a_regular_expression_busy_are_refused(
    tmp_path: Path, base: BaseModel, pattern: str
) -> None:
    with pytest.raises(AdapterUnusable, match="alpha_pattern has a key that is neither a module's name nor"):
        sound(tmp_path, base, alpha_pattern={pattern: 4})


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "Orthogonal", None])
def test_initialisations_that_leave_the_base_alone(tmp_path: Path, base: BaseModel, init: object) -> None:
    sound(tmp_path, base, init_lora_weights=init, use_rslora=True)


def test_a_base_that_stores_inputs_first(tmp_path: Path) -> None:
    base = BaseModel({"h.0.mlp.c_fc": (HIDDEN, INNER)})
    tensors = lora("h.0.mlp.c_fc", INNER, HIDDEN)
    sound(tmp_path, base, tensors, fan_in_fan_out=True)
    with pytest.raises(AdapterUnusable, match="another model's"):
        sound(tmp_path, base, tensors, fan_in_fan_out=False)


def test_where_the_base_hides_its_shapes_names_are_still_checked(tmp_path: Path) -> None:
    base = BaseModel({Q_PROJ: None})
    sound(tmp_path, base, lora(rows=16, columns=24))
    with pytest.raises(AdapterUnusable, match="no layer"):
        sound(tmp_path, base, lora("elsewhere"))


def test_nothing_passes_where_the_base_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(AdapterUnusable, match="layers are not known"):
        sound(tmp_path, BaseModel({}))


def test_a_base_known_by_its_configuration_only(tmp_path: Path, base_path: Path) -> None:
    (base_path / "model.safetensors").unlink()
    assert json.loads((base_path / "config.json").read_text()) == BASE_CONFIG
    base = BaseModel.read(base_path)
    sound(tmp_path, base)
    with pytest.raises(AdapterUnusable, match="another model's"):
        sound(tmp_path, base, lora(rows=INNER))


def test_what_peft_itself_writes_passes(tmp_path: Path, base: BaseModel) -> None:
    """The keys and values that PEFT 0.21 writes for `LoraConfig(r=4, …, init_lora_weights=False)`."""
    folder = write_adapter(tmp_path / "adapter")
    shutil.copy(Path(__file__).with_name("peft_0_21_adapter_config.json"), folder / CONFIG_FILE)
    save_file(lora(), folder / WEIGHTS_FILE, {"format": "pt"})
    validate(folder, base, MAX_RANK)
