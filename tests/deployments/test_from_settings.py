"""A manager as a plain object, from the same settings that Serve's replicas get."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.local_manager import LocalManager
from serve.config import Settings, load_args
from serve.errors import NotFound
from serve.schemas import Json

ARGS: Json = {
    "models": [
        {
            "name": "llama",
            "provider": "local",
            "model_id": "llama3.2",
            "base_url": "http://127.0.0.1:9/v1",
            "default_params": {"temperature": 0.1, "max_tokens": 7},
            "model_cache_gib": 2,
        },
        {"name": "other", "provider": "local", "model_id": "other", "base_url": "http://127.0.0.1:9/v1"},
    ],
    "bots": {"terse": {"model": "llama", "default_params": {"max_tokens": 3}}},
}


@pytest.fixture
def settings() -> Settings:
    return load_args(ARGS, env={})


async def test_it_serves_the_models_of_the_named_manager(settings: Settings) -> None:
    manager = LocalManager.from_settings(settings, "llama")
    assert (await manager.get_model("llama")).name == "llama3.2"
    with pytest.raises(NotFound):
        await manager.get_model("other")
    await manager.close()


def test_there_must_be_such_a_manager(settings: Settings) -> None:
    with pytest.raises(KeyError, match="lama"):
        LocalManager.from_settings(settings, "lama")


@pytest.mark.parametrize(
    ("bot", "asked", "params"),
    [
        (None, {}, {"temperature": 0.1, "max_tokens": 7}),
        ("terse", {}, {"temperature": 0.1, "max_tokens": 3}),
        ("terse", {"max_tokens": 9}, {"temperature": 0.1, "max_tokens": 9}),
    ],
)
async def test_defaults_come_from_the_bot_and_then_the_model(
    settings: Settings, bot: str | None, asked: dict[str, Any], params: Json
) -> None:
    manager = LocalManager.from_settings(settings, "llama")
    assert manager.prepare_inference_params("llama", bot_type=bot, **asked) == params
