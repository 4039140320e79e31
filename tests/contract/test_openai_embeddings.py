from __future__ import annotations

import math

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI

from tests.live import config

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not config.EMBED.exists(), reason="there is no embedding model in models/demo-embed"),
]


def test_texts_that_ask_the_same_lie_near_each_other(openai: OpenAI) -> None:
    asked = ["When are you open?", "What are your opening hours?", "Can I bring my dog?"]

    answer = openai.embeddings.create(model="demo-embed", input=asked, encoding_format="float")

    assert [one.index for one in answer.data] == [0, 1, 2]
    same, too, other = (one.embedding for one in answer.data)
    assert _cosine(same, too) > _cosine(same, other)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0


async def test_base64_is_the_same_vector(async_openai: AsyncOpenAI) -> None:
    # The SDK asks for base64 unless told otherwise and decodes it, but its own strict check comes before that.
    lenient = async_openai.copy()
    lenient._strict_response_validation = False
    decoded = await lenient.embeddings.create(model="demo-embed", input="hello")
    floats = await async_openai.embeddings.create(model="demo-embed", input="hello", encoding_format="float")

    assert decoded.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-5)


def test_a_model_that_writes_embeds_nothing(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        openai.embeddings.create(model="demo", input="hello")


def _cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))
