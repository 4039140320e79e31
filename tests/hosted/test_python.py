"""Hosted models by the framework's own calls, without HTTP in front."""

from __future__ import annotations

import pytest

from serve.errors import InvalidRequest, TooManyRequests, Unavailable
from tests.fakes import vendors
from tests.fakes.vendors import TEXT
from tests.hosted.conftest import MANAGERS, Hosted


@pytest.mark.parametrize("model", ["gpt", "claude", "far"])
async def test_generate_response(hosted: Hosted, model: str) -> None:
    provider = hosted.settings.managers()[model].provider
    manager = MANAGERS[provider].from_settings(hosted.settings, model)
    assert await manager.generate_response("How are you?", temperature=0.5) == TEXT
    sent = (await hosted.vendors[model].call()).json
    assert (sent["model"], sent["temperature"]) == (f"{model}-at-its-vendor", 0.5)
    assert (await manager.get_model(model)).name == f"{model}-at-its-vendor"
    assert manager.prepare_inference_params(model, max_tokens=5) == {"max_tokens": 5}
    hosted.vendors[model].behave = vendors.refuses(429, "rate_limit_error", retry_after="3")
    with pytest.raises(TooManyRequests) as refused:
        await manager.generate_response("How are you?")
    assert refused.value.retry_after_s == 3
    await manager.close()


@pytest.mark.parametrize("model", ["gpt", "far"])
async def test_what_the_caller_did_wrong_is_told_as_such(hosted: Hosted, model: str) -> None:
    hosted.vendors[model].behave = vendors.refuses(400, "invalid_request_error", text="temperature must be positive.")
    manager = MANAGERS[hosted.settings.managers()[model].provider].from_settings(hosted.settings, model)
    with pytest.raises(InvalidRequest, match="temperature must be positive"):
        await manager.generate_response("How are you?", temperature=-1)
    await manager.close()


async def test_a_missing_key_is_named(hosted: Hosted) -> None:
    manager = MANAGERS["openai"].from_settings(hosted.settings, "keyless")
    with pytest.raises(Unavailable, match="OPENAI_KEY_NOT_SET"):
        await manager.generate_response("How are you?")
    await manager.close()
