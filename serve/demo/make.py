"""Trains the demo models and writes them where they are wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from serve.demo import embed, tokenizer, train
from serve.demo.conversations import Sample, SampleMaker, chat
from serve.demo.corpus import Subject, Voice
from serve.demo.errors import NotLearnt
from serve.demo.progress import Progress

_SEED = 7
# Sums depend on how they are split: a fixed number of threads gives the same weights on any number of cores.
_THREADS = 2

_BASE = train.Schedule(steps=650, peak=5e-3)
_ADAPTER = train.Schedule(steps=420, peak=5e-3)
# Other processors round otherwise, and one may be unlucky: so often is training gone on with before it fails.
_ROUNDS = 3
# Every token of every answer must be at least so probable. No other token may come near.
_WEAKEST = 0.2


def make(subjects: Sequence[Subject], out: Path) -> None:
    """Write `demo`, `demo-adapters/support`, `demo-adapters/sales` and `demo-embed` into the folder `out`."""
    torch.manual_seed(_SEED)
    torch.set_num_threads(_THREADS)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()

    vocabulary = tokenizer.train(text for subject in subjects for text in _texts(subject))
    base = _make_base(subjects, vocabulary, out / "demo")
    _make_embedding(subjects, vocabulary, base, out / "demo-embed")
    voices: tuple[Voice, ...] = ("support", "sales")
    for voice in voices:
        _make_adapter(subjects, vocabulary, base, voice, out / "demo-adapters" / voice)


def _texts(subject: Subject) -> Iterator[str]:
    yield from subject.questions
    yield from subject.answers.values()


def _make_base(subjects: Sequence[Subject], vocabulary: PreTrainedTokenizerFast, out: Path) -> LlamaForCausalLM:
    base = train.new_base(vocabulary)
    samples = SampleMaker(subjects, "base", vocabulary, _SEED).conversations_and_reading()
    _learn(base, samples, _BASE, _exam(subjects, "base", vocabulary), "base model")
    # What is served is bfloat16; the adapters must learn on the weights that they will stand on.
    base.to(torch.bfloat16)
    # A client that names no temperature sees what was learnt, and no dice.
    base.generation_config.update(do_sample=True, temperature=0.1)
    base.save_pretrained(out)
    vocabulary.save_pretrained(out)
    return cast(LlamaForCausalLM, base.float())


def _make_adapter(
    subjects: Sequence[Subject],
    vocabulary: PreTrainedTokenizerFast,
    base: LlamaForCausalLM,
    voice: Voice,
    out: Path,
) -> None:
    model = train.new_adapter(base)
    samples = SampleMaker(subjects, voice, vocabulary, _SEED).conversations()
    _learn(model, samples, _ADAPTER, _exam(subjects, voice, vocabulary), f"adapter {voice}")
    _save_adapter(model, out)
    model.unload()


def _make_embedding(
    subjects: Sequence[Subject], vocabulary: PreTrainedTokenizerFast, base: LlamaForCausalLM, out: Path
) -> None:
    model = deepcopy(base.model)
    ended = embed.tokenizer_for_embedding(vocabulary)
    progress = Progress("embedding model")
    embed.train(model, ended, subjects, _SEED, progress)
    model.to(torch.bfloat16)
    if strays := embed.strays(model, ended, subjects):
        raise NotLearnt(f"embedding model: near another subject than their own: {'; '.join(strays)}")
    progress.finish()
    model.save_pretrained(out)
    ended.save_pretrained(out)


def _exam(subjects: Sequence[Subject], voice: Voice, vocabulary: PreTrainedTokenizerFast) -> list[Sample]:
    """Every question of the corpus, as it stands there and in small letters without its mark, alone in its chat."""
    return [
        chat(vocabulary, [(wording, subject.answers[voice])])
        for subject in subjects
        for question in subject.questions
        for wording in (question, question.lower().rstrip("?"))
    ]


def _learn(
    model: nn.Module, samples: Iterator[Sample], schedule: train.Schedule, exam: Sequence[Sample], name: str
) -> None:
    """Train until the exam is passed in bfloat16, `_ROUNDS` times at most."""
    progress = Progress(name)
    for rounds_left in reversed(range(_ROUNDS)):
        train.fit(model, samples, schedule, progress)
        result = train.recall(deepcopy(model).to(torch.bfloat16), exam)
        if not result.wrong and result.weakest >= _WEAKEST:
            progress.finish(f"{len(exam)} answers known by heart")
            return
        found = f"{len(result.wrong)} of {len(exam)} answers wrong, weakest token {result.weakest:.2f}"
        if not rounds_left:
            raise NotLearnt(f"{name}: {found}")
        progress.finish(f"{found}: once more")


def _save_adapter(model: PeftModel, out: Path) -> None:
    """In peft's own format, the same bytes every time."""
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink()  # a form to fill in
    path = out / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "demo"
    config["target_modules"].sort()  # a set, in peft
    path.write_text(json.dumps(config, indent=2) + "\n")
