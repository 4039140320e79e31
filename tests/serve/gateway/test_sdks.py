"""What the vendors' own clients make of it when things go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes import replica as fake
from tests.fakes.replica import DONE, Gate, event
from tests.serve.gateway.running import Running, Start

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
TEXT = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"demo","content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":1,"output_tokens":0}}}\n\n'
)


@pytest.fixture
async def sdk(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none") as sdk:
        yield sdk


@pytest.fixture
async def claude(running: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="none") as sdk:
        yield sdk


async def test_an_openai_client_is_told_that_a_stream_broke_off(running: Running, sdk: openai.AsyncOpenAI) -> None:
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(event(0))
    stream = await sdk.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
    said = await anext(stream)
    assert said.choices[0].delta.content == "<0>"
    gate.reset()
    with pytest.raises(openai.APIError, match="broke off"):
        await anext(stream)
    assert len(replica.calls) == 1


async def test_an_anthropic_client_is_told_that_a_stream_broke_off(
    running: Running, claude: anthropic.AsyncAnthropic
) -> None:
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(TEXT)
    stream = await claude.messages.create(model="demo", messages=MESSAGES, max_tokens=5, stream=True)
    said = await anext(stream)
    assert said.type == "message_start"
    gate.reset()
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        await anext(stream)


async def test_no_client_tries_a_request_again_that_broke_an_engine(
    running: Running, sdk: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    replica = await running.replica()
    replica.behave = fake.resets
    with pytest.raises(openai.InternalServerError):
        await sdk.chat.completions.create(model="demo", messages=MESSAGES)
    with pytest.raises(anthropic.InternalServerError):
        await claude.messages.create(model="demo", messages=MESSAGES, max_tokens=5)
    assert len(replica.calls) == 2


async def test_each_client_knows_a_refused_key_for_what_it_is(start: Start) -> None:
    running = await start(auth={"keys": ["a-client-key-of-bot-1"]})
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="a-client-key-of-bot-1") as known:
        assert (await known.models.list()).data
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="a-client-key-of-bot-1") as known_too:
        assert (await known_too.models.list()).data
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="wrong") as other:
        with pytest.raises(anthropic.AuthenticationError):
            await other.models.list()


async def test_a_stream_ends_as_each_client_expects(running: Running, sdk: openai.AsyncOpenAI) -> None:
    replica = await running.replica()
    replica.behave = fake.streams_bytes(event(0), event(1) + DONE)
    stream = await sdk.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["<0>", "<1>"]
