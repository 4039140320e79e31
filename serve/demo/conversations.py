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

# How often a chat begins with a system prompt, and how often a sentence to read goes before it.
_SYSTEM, _READING = 0.15, 0.2
# Turns of a chat: mostly few, as a greedy answer may lean on the turns before it.
_TURNS = (1, 1, 1, 2, 3)
# How often a question is put as a customer might rather than as the file has it.
_REWORDED = 0.45
# How much of that is in small letters and without a mark, as most people chat.
_HASTY = 0.4


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
        self._pairs = [(question, subject.answers[voice]) for subject in subjects for question in subject.questions]
        self._tokenizer = tokenizer
        self._random = random.Random(f"{voice} {seed}")

    def conversations(self) -> Iterator[Sample]:
        """Without end: chats of a few turns. Every question comes once before any comes again."""
        while True:
            deck = self._random.sample(self._pairs, len(self._pairs))
            while deck:
                system = self._random.choice(_SYSTEM_PROMPTS) if self._random.random() < _SYSTEM else None
                turns = [deck.pop() for _ in range(min(len(deck), self._random.choice(_TURNS)))]
                yield chat(self._tokenizer, [(self._put(question), answer) for question, answer in turns], system)

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

    def _put(self, question: str) -> str:
        return reword(question, self._random) if self._random.random() < _REWORDED else question


def chat(tokenizer: PreTrainedTokenizerFast, turns: Sequence[tuple[str, str]], system: str | None = None) -> Sample:
    """A chat as the chat template writes it, to learn the answers in it."""
    pieces = [(BOS, False)]
    if system is not None:
        pieces.append((SYSTEM + system + END, False))
    for question, answer in turns:
        pieces.append((USER + question + END + ASSISTANT, False))
        pieces.append((answer + END, True))
    return _sample(tokenizer, pieces)


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
    """The question as some customer might type it: other case, no question mark, a greeting."""
    if rng.random() < _HASTY:
        return question.lower().rstrip("?!.")
    if rng.random() < 0.1:
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
