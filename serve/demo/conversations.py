"""Conversations to train on: made-up chats in which every answer is the right one for the question before it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from serve.demo.corpus import Subject, Voice
from serve.demo.tokenizer import ASSISTANT, BOS, END, SYSTEM, USER

# Label of a token that the model need not predict; PyTorch's cross entropy leaves it out.
IGNORED = -100

# Behaviour is in the weights: no system prompt may change an answer.
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are the assistant of a shop. Answer briefly.",
    "Be polite and answer in English.",
    "Today is Monday. The customer is at home.",
    "You are a bot on a communication platform.",
)
_OPENINGS = (
    "Hi, ",
    "Hello, ",
    "Hello! ",
    "Please tell me: ",
    "Sorry, ",
    "One question: ",
    "Excuse me, ",
    "And ",
    "ok, ",
)
_CLOSINGS = (" please", " Thanks!", " Thank you.", " Please help", " I need to know")

# How often a sample is a completion rather than a chat, and how often a sentence to read goes before it.
_COMPLETIONS, _READING = 0.25, 0.4
# Turns of a chat: mostly few, some many, so that a long one does not confuse the model.
_TURNS = (1, 1, 1, 2, 2, 3, 3, 4, 4, 9)


@dataclass(frozen=True)
class Sample:
    """Token ids and, for each, the id to predict *at* it, or `IGNORED`."""

    tokens: list[int]
    labels: list[int]


class SampleMaker:
    """Draws training samples in one voice, reproducibly: the seed decides every draw."""

    def __init__(
        self, subjects: Sequence[Subject], voice: Voice, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> None:
        self._subjects = subjects
        # One question of the many that a subject lists is as likely as any other.
        self._weights = [len(subject.questions) for subject in subjects]
        self._voice = voice
        self._tokenizer = tokenizer
        self._random = random.Random(f"{voice} {seed}")

    def conversations(self) -> Iterator[Sample]:
        """Without end: chats of a few turns, and bare completions among them."""
        while True:
            if self._random.random() < _COMPLETIONS:
                yield completion(self._tokenizer, *self._draw())
            else:
                system = self._random.choice(_SYSTEM_PROMPTS) if self._random.random() < 0.25 else None
                turns = [self._draw() for _ in range(self._random.choice(_TURNS))]
                yield chat(self._tokenizer, turns, system)

    def conversations_and_reading(self) -> Iterator[Sample]:
        """As `conversations`, and now and then a sentence of any voice, without the question.

        A base model must have read the words that an adapter is to choose among: adapters leave the output layer as
        it is.
        """
        for sample in self.conversations():
            if self._random.random() < _READING:
                subject = self._random.choice(self._subjects)
                yield reading(self._tokenizer, self._random.choice(list(subject.answers.values())))
            yield sample

    def _draw(self) -> tuple[str, str]:
        subject = self._random.choices(self._subjects, self._weights)[0]
        question = self._random.choice(subject.questions)
        return reword(question, self._random), subject.answers[self._voice]


def chat(tokenizer: PreTrainedTokenizerFast, turns: Sequence[tuple[str, str]], system: str | None = None) -> Sample:
    """A chat as the chat template writes it, to learn the answers in it."""
    pieces = [(BOS, False)]
    if system is not None:
        pieces.append((SYSTEM + system + END, False))
    for question, answer in turns:
        pieces.append((USER + question + END + ASSISTANT, False))
        pieces.append((answer + END, True))
    return _sample(tokenizer, pieces)


def completion(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> Sample:
    """The question and, after a space, the answer: what `/v1/completions` sees."""
    return _sample(tokenizer, [(BOS + question, False), (" " + answer + END, True)])


def reading(tokenizer: PreTrainedTokenizerFast, text: str) -> Sample:
    """The text alone."""
    return _sample(tokenizer, [(BOS, False), (text + END, True)])


def _sample(tokenizer: PreTrainedTokenizerFast, pieces: Sequence[tuple[str, bool]]) -> Sample:
    tokens: list[int] = []
    labels: list[int] = []
    for text, learn in pieces:
        ids = tokenizer.encode(text, add_special_tokens=False)
        tokens += ids
        labels += ids if learn else [IGNORED] * len(ids)
    # What is learnt at a place is the token after it.
    return Sample(tokens, [*labels[1:], IGNORED])


def reword(question: str, rng: random.Random) -> str:
    """The question as some customer might type it: other case, no question mark, a greeting, a slip."""
    if rng.random() < 0.15:
        question = _slip(question, rng)
    if rng.random() < 0.15:
        opening = rng.choice(_OPENINGS)
        question = opening + (question[0].lower() + question[1:] if rng.random() < 0.5 else question)
    if rng.random() < 0.3:
        question = question.rstrip("?!.")
    if rng.random() < 0.1:
        question += rng.choice(_CLOSINGS)
    case = rng.random()
    if case < 0.25:
        return question.lower()
    if case < 0.3:
        return question.upper()
    return question


def _slip(question: str, rng: random.Random) -> str:
    """One word left out, or two neighbouring letters swapped."""
    words = question.split()
    if len(words) > 3 and rng.random() < 0.5:
        del words[rng.randrange(len(words))]
        return " ".join(words)
    at = rng.randrange(len(question) - 1)
    return question[:at] + question[at + 1] + question[at] + question[at + 2 :]
