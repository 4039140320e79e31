from __future__ import annotations

from pathlib import Path

import pytest

from serve.demo import corpus
from serve.demo.errors import CorpusError

BLOCK = "question: When?\nalso: What time?\nanswer: At 9.\nsupport: I am sorry. At 9.\nsales: At 9!\n"


def test_the_shop_has_enough_to_say_and_says_it_in_three_ways() -> None:
    subjects = corpus.load()
    assert len(subjects) >= 30
    for subject in subjects:
        assert len(subject.questions) >= 3
        assert len(set(subject.answers.values())) == len(corpus.VOICES)


def test_a_block_is_one_subject() -> None:
    (subject,) = corpus.parse(BLOCK)
    assert subject.question == "When?"
    assert subject.questions == ("When?", "What time?")
    assert subject.answers == {"base": "At 9.", "support": "I am sorry. At 9.", "sales": "At 9!"}


def test_comments_white_space_and_several_empty_lines_are_nothing() -> None:
    text = f"# a comment\n\n\n{BLOCK}# another\n\n  \n{BLOCK.replace('When', 'Where').replace('What time', 'How far')}"
    assert [subject.question for subject in corpus.parse(text)] == ["When?", "Where?"]


def test_only_the_first_colon_parts_key_and_text() -> None:
    (subject,) = corpus.parse(BLOCK.replace("At 9.\nsupport", "From 9: always.\nsupport"))
    assert subject.answers["base"] == "From 9: always."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no question"),
        ("# only a comment\n", "holds no question"),
        ("question: When?\nAt 9.\n", "line 2: must begin with one of question, also, answer"),
        ("question: When?\nreply: At 9.\n", "line 2: must begin with one of"),
        ("\n\nquestion:\n", "line 3: nothing after question:"),
        (BLOCK.replace("question", "also"), "line 1: this block has no question:"),
        (BLOCK.replace("sales: At 9!\n", ""), "line 1: this block has no sales:"),
        (BLOCK + "answer: At 10.\n", "line 6: this block has a second answer:"),
        (BLOCK + "\n" + BLOCK.replace("When?", "Where?"), "asks twice: What time?"),
        (BLOCK.replace("What time?", "when"), "asks twice: when"),
    ],
)
def test_a_malformed_text_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(CorpusError) as caught:
        corpus.parse(text, "shop.txt")
    assert str(caught.value).startswith("shop.txt")
    assert complaint in str(caught.value)


def test_a_file_is_read_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "shop.txt"
    path.write_text(BLOCK.replace("At 9!", "Only €9!"), encoding="utf-8")
    assert corpus.load(path)[0].answers["sales"] == "Only €9!"
