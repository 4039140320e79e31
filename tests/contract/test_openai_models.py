from __future__ import annotations

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI

pytestmark = pytest.mark.engine


def test_models_adapters_and_bots_are_listed(openai: OpenAI) -> None:
    ids = [model.id for model in openai.models.list()]

    assert {"demo", "demo:support", "demo:sales", "outside", "support", "plain"} <= set(ids)
    assert len(ids) == len(set(ids))


async def test_the_async_client_lists_them_too(async_openai: AsyncOpenAI) -> None:
    assert "demo" in [model.id async for model in async_openai.models.list()]


@pytest.mark.parametrize("name", ["demo", "demo:support", "support"])
def test_each_is_retrieved_by_its_name(openai: OpenAI, name: str) -> None:
    assert openai.models.retrieve(name).id == name


def test_an_unknown_one_is_not_found(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        openai.models.retrieve("nobody")
