from __future__ import annotations

import pytest
from openai import OpenAI

from tests.contract.questions import ANSWER, PROMPT, SUPPORT_ANSWER

pytestmark = pytest.mark.engine


def test_a_prompt_is_completed(openai: OpenAI) -> None:
    completion = openai.completions.create(model="demo", prompt=PROMPT, max_tokens=100)

    (choice,) = completion.choices
    assert (choice.text.strip(), choice.finish_reason) == (ANSWER, "stop")


def test_several_prompts_are_completed_in_order(openai: OpenAI) -> None:
    completion = openai.completions.create(model="demo:support", prompt=[PROMPT, PROMPT], max_tokens=100, logprobs=1)

    assert [choice.text.strip() for choice in completion.choices] == [SUPPORT_ANSWER] * 2
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert all(choice.logprobs for choice in completion.choices)


def test_a_stream_says_the_same_with_the_same_usage(openai: OpenAI) -> None:
    whole = openai.completions.create(model="demo", prompt=PROMPT, max_tokens=100)

    # The SDK's own type of a chunk forbids what OpenAI sends: a finish_reason of null until the end.
    lenient = openai.copy()
    lenient._strict_response_validation = False
    with lenient.completions.create(
        model="demo", prompt=PROMPT, max_tokens=100, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
