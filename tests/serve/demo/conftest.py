from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from serve.demo import corpus, tokenizer


@pytest.fixture(scope="session")
def subjects() -> tuple[corpus.Subject, ...]:
    return corpus.load()


@pytest.fixture(scope="session")
def shop_tokenizer(subjects: tuple[corpus.Subject, ...]) -> PreTrainedTokenizerFast:
    return tokenizer.train(text for one in subjects for text in (*one.questions, *one.answers.values()))
