"""The base model and its adapters: what they look like, how they learn, and the proof that they have learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serve.demo.conversations import IGNORED, Sample
from serve.demo.progress import Progress

# Tokens that prompt and answer may have together. Enough for some ten turns.
CONTEXT = 1024

# One step learns from so many rows of so many tokens.
_ROWS, _LENGTH = 3, 256

LORA_RANK = 8
_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Schedule:
    """How long to learn: `steps` steps, the learning rate rising to `peak` and falling to 0."""

    steps: int
    peak: float


@dataclass(frozen=True)
class Recall:
    """How well answers are known by heart, over samples: the least probable token, and samples said wrongly."""

    weakest: float
    wrong: list[int]


def new_base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama, 0.9 million parameters. Heads of 32 are the smallest that vLLM's CPU kernels take."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def new_adapter(base: LlamaForCausalLM) -> PeftModel:
    """`base`, frozen, with an untrained LoRA adapter over every linear layer."""
    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        target_modules=_LINEAR_LAYERS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def fit(model: nn.Module, samples: Iterator[Sample], schedule: Schedule, progress: Progress) -> None:
    """Train whatever in `model` is not frozen, to predict the labels of `samples`."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=schedule.peak, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.peak, total_steps=schedule.steps, pct_start=0.1)
    model.train()
    for step in range(schedule.steps):
        tokens, labels = _pack(samples)
        loss = cross_entropy(_logits(model, tokens, labels), labels[labels != IGNORED])
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        progress.at((step + 1) / schedule.steps, f"loss {loss.item():.4f}")
    model.eval()


@torch.inference_mode()
def recall(model: nn.Module, samples: Sequence[Sample], batch: int = 64) -> Recall:
    """Whether greedy decoding says the labels of every sample.

    It does exactly if, given the right tokens so far, each next label is the likeliest token; so one forward pass
    tells what generation would take a pass a token for.
    """
    weakest, wrong = 1.0, []
    for start in range(0, len(samples), batch):
        tokens, labels = _pad(samples[start : start + batch])
        told = labels != IGNORED
        chances = _logits(model, tokens, labels).float().softmax(-1)
        right = chances.argmax(-1) == labels[told]
        weakest = min(weakest, chances.gather(1, labels[told].unsqueeze(1)).min().item())
        rows = told.nonzero()[:, 0]
        wrong += sorted({start + int(row) for row in rows[~right]})
    return Recall(weakest, wrong)


def _logits(model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits [labels that count, vocabulary], in the order of `labels[labels != IGNORED]`."""
    # The output layer is the widest by far: only places that count go through it.
    causal: LlamaForCausalLM = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.model(input_ids=tokens, use_cache=False).last_hidden_state
    logits: torch.Tensor = causal.lm_head(hidden[labels != IGNORED])
    return logits


def _pack(samples: Iterator[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels, each [rows, length], full of samples one after another.

    Nothing is wasted on filling up, and the model learns to leave alone what stands before the last beginning.
    """
    tokens, labels = [], []
    for _ in range(_ROWS):
        row = Sample([], [])
        while len(row.tokens) < _LENGTH:
            sample = next(samples)
            row.tokens.extend(sample.tokens)
            row.labels.extend(sample.labels)
        tokens.append(row.tokens[:_LENGTH])
        labels.append(row.labels[:_LENGTH])
    return torch.tensor(tokens), torch.tensor(labels)


def _pad(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels, each [samples, longest], filled up on the right, where a causal model does not look."""
    longest = max(len(sample.tokens) for sample in samples)
    tokens = [sample.tokens + [0] * (longest - len(sample.tokens)) for sample in samples]
    labels = [sample.labels + [IGNORED] * (longest - len(sample.labels)) for sample in samples]
    return torch.tensor(tokens), torch.tensor(labels)
