"""The vendors' SDKs, told to refuse an answer that is not as their types say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from tests.live.running import Switchboard


@pytest.fixture
def openai(switchboard: Switchboard) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{switchboard.base_url}/v1",
        api_key=switchboard.client_key,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
async def async_openai(switchboard: Switchboard) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{switchboard.base_url}/v1",
        api_key=switchboard.client_key,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def anthropic(switchboard: Switchboard) -> Iterator[Anthropic]:
    with Anthropic(
        base_url=switchboard.base_url,
        api_key=switchboard.client_key,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
async def async_anthropic(switchboard: Switchboard) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(
        base_url=switchboard.base_url,
        api_key=switchboard.client_key,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client
