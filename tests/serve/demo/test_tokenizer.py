from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from serve.demo import corpus, tokenizer


@given(text=st.text())
def test_any_text_comes_out_as_it_went_in(shop_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = shop_tokenizer.encode(text, add_special_tokens=False)
    assert shop_tokenizer.decode(ids) == text


def test_training_is_reproducible(
    shop_tokenizer: PreTrainedTokenizerFast, subjects: tuple[corpus.Subject, ...]
) -> None:
    again = tokenizer.train(text for one in subjects for text in (*one.questions, *one.answers.values()))
    assert again.get_vocab() == shop_tokenizer.get_vocab()


def test_a_completion_begins_with_the_token_that_chats_begin_with(shop_tokenizer: PreTrainedTokenizerFast) -> None:
    assert shop_tokenizer.encode("When?")[0] == shop_tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([{"role": "user", "content": "Hi"}], "<s><|user|>Hi<|end|><|assistant|>"),
        (
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
            "<s><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>",
        ),
        (
            [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"},
            ],
            "<s><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>Bye<|end|><|assistant|>",
        ),
        (
            [
                {"role": "user", "content": "Open?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "hours", "arguments": {}}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "9 to 6"},
            ],
            '<s><|user|>Open?<|end|><|assistant|>{"name": "hours", "arguments": {}}<|end|>'
            "<|tool|>9 to 6<|end|><|assistant|>",
        ),
    ],
)
def test_the_chat_template_writes_every_role(
    shop_tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], written: str
) -> None:
    assert shop_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == written
