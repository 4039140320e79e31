"""The embedding model: questions of the same subject lie near each other, questions of different ones far apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy

import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import LlamaModel, PreTrainedTokenizerFast

from serve.demo.conversations import reword
from serve.demo.corpus import Subject
from serve.demo.progress import Progress
from serve.demo.tokenizer import BOS, END

_STEPS = 120
_LEARNING_RATE = 1e-3
# How sharply the loss tells near from far; cosines are divided by it.
_TEMPERATURE = 0.05


def tokenizer_for_embedding(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """`tokenizer` with an end token after each text: the embedding is the model's state there."""
    ended = deepcopy(tokenizer)
    special = [(token, ended.convert_tokens_to_ids(token)) for token in (BOS, END)]
    ended.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A {END}", special_tokens=special)
    return ended


def train(
    model: LlamaModel,
    tokenizer: PreTrainedTokenizerFast,
    subjects: Sequence[Subject],
    seed: int,
    progress: Progress,
) -> None:
    """Teach `model`, in place: two wordings of one subject against those of all other subjects in the batch."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    target = torch.arange(len(subjects))
    model.train()
    for step in range(_STEPS):
        left, right = (
            embed(model, tokenizer, [reword(rng.choice(subject.questions), rng) for subject in subjects])
            for _ in range(2)
        )
        loss = cross_entropy(left @ right.T / _TEMPERATURE, target)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.at((step + 1) / _STEPS, f"loss {loss.item():.4f}")
    model.eval()


@torch.inference_mode()
def strays(model: LlamaModel, tokenizer: PreTrainedTokenizerFast, subjects: Sequence[Subject]) -> list[str]:
    """Questions whose nearest neighbour belongs to another subject."""
    questions = [question for subject in subjects for question in subject.questions]
    owners = torch.tensor([index for index, subject in enumerate(subjects) for _ in subject.questions])
    vectors = embed(model, tokenizer, questions)
    near = (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
    return [question for question, stray in zip(questions, owners[near] != owners, strict=True) if stray]


def embed(model: LlamaModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors [texts, hidden size], each the state at the text's last token."""
    batch = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
    hidden = model(**batch, use_cache=False).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    return normalize(hidden[torch.arange(len(texts)), last], dim=-1)
