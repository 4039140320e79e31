from __future__ import annotations

import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from serve.demo import corpus
from serve.demo.conversations import IGNORED, SampleMaker, chat, reword


def test_what_is_learnt_is_the_answers_each_label_one_place_ahead(shop_tokenizer: PreTrainedTokenizerFast) -> None:
    sample = chat(shop_tokenizer, [("When?", "At 9."), ("Where?", "Here.")], system="Be kind.")
    learnt = [label for label in sample.labels if label != IGNORED]
    assert shop_tokenizer.decode(learnt) == "At 9.<|end|>Here.<|end|>"
    for place, label in enumerate(sample.labels):
        assert label in (IGNORED, *sample.tokens[place + 1 : place + 2])


def test_training_chats_are_written_as_the_chat_template_writes_them(
    shop_tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "At 9."},
    ]
    sample = chat(shop_tokenizer, [("When?", "At 9.")], system="Be kind.")
    assert shop_tokenizer.decode(sample.tokens) == shop_tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_seed_decides_every_sample(
    shop_tokenizer: PreTrainedTokenizerFast, subjects: tuple[corpus.Subject, ...]
) -> None:
    def draw(seed: int) -> list[list[int]]:
        maker = SampleMaker(subjects, "base", shop_tokenizer, seed)
        return [sample.tokens for sample in islice(maker.conversations_and_reading(), 50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@given(question=st.text(min_size=1), seed=st.integers())
def test_any_question_can_be_reworded(question: str, seed: int) -> None:
    assert isinstance(reword(question, random.Random(seed)), str)
