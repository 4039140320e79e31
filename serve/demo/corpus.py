"""What the demo model knows, read from `shop.txt`: questions, and how each voice answers them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serve.demo.errors import CorpusError

# The base model and its two adapters.
Voice = Literal["base", "support", "sales"]
VOICES: tuple[Voice, ...] = get_args(Voice)

SHOP = Path(__file__).with_name("shop.txt")

# The key that holds each voice's answer.
_ANSWER_KEYS: dict[Voice, str] = {"base": "answer", "support": "support", "sales": "sales"}
_KEYS = ("question", "also", *_ANSWER_KEYS.values())


@dataclass(frozen=True)
class Subject:
    """One thing that customers ask about. `questions` are different ways to ask it, the usual one first."""

    questions: tuple[str, ...]
    answers: dict[Voice, str]

    @property
    def question(self) -> str:
        return self.questions[0]


def load(path: Path = SHOP) -> tuple[Subject, ...]:
    """Every subject of the file, in its order."""
    return parse(path.read_text(encoding="utf-8"), str(path.name))


def parse(text: str, name: str = "corpus") -> tuple[Subject, ...]:
    """As `load`, from text; `name` stands for the file in errors."""
    subjects = tuple(_subject(block, name) for block in _blocks(text, name))
    if not subjects:
        raise CorpusError(f"{name}: holds no question")
    _refuse_repeats(subjects, name)
    return subjects


@dataclass(frozen=True)
class _Line:
    number: int
    key: str
    value: str


def _blocks(text: str, name: str) -> Iterator[list[_Line]]:
    """Blocks of key lines, apart by empty lines; comments left out."""
    block: list[_Line] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        if line:
            block.append(_line(number, line, name))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _line(number: int, line: str, name: str) -> _Line:
    key, colon, value = line.partition(":")
    if not colon or key not in _KEYS:
        raise CorpusError(f"{name}, line {number}: must begin with one of {', '.join(_KEYS)} and a colon")
    if not value.strip():
        raise CorpusError(f"{name}, line {number}: nothing after {key}:")
    return _Line(number, key, value.strip())


def _subject(block: list[_Line], name: str) -> Subject:
    question = _only(block, "question", name)
    others = (line.value for line in block if line.key == "also")
    answers = {voice: _only(block, key, name) for voice, key in _ANSWER_KEYS.items()}
    return Subject((question, *others), answers)


def _only(block: list[_Line], key: str, name: str) -> str:
    found = [line for line in block if line.key == key]
    if not found:
        raise CorpusError(f"{name}, line {block[0].number}: this block has no {key}:")
    if len(found) > 1:
        raise CorpusError(f"{name}, line {found[1].number}: this block has a second {key}:")
    return found[0].value


def _refuse_repeats(subjects: Iterable[Subject], name: str) -> None:
    """A question that stands in two places has two right answers, and the model could learn neither."""
    seen: set[str] = set()
    for subject in subjects:
        for question in subject.questions:
            bare = question.casefold().rstrip("?!. ")
            if bare in seen:
                raise CorpusError(f"{name}: asks twice: {question}")
            seen.add(bare)
