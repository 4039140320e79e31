"""More than there is room for is refused at once, in the API's own form, and what was accepted goes on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.live.asking import CHAT, MESSAGES, Client, chat_body
from tests.live.config import CAPACITY, OUTSIDE_CAPACITY
from tests.live.eventually import eventually
from tests.live.running import Switchboard
from tests.live.watching import REPLICAS, idle, long_body

pytestmark = pytest.mark.engine

AT_ONCE_S = 20.0


async def check_refused(client: Client, model: str) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        openai = await client.chat(model, "Hello")
        anthropic = await client.post(MESSAGES, chat_body(model, "Hello", max_tokens=5, stream=True))

    assert (openai.status, openai.json["error"]["code"]) == (429, "at_capacity")
    assert (anthropic.status, anthropic.json["error"]["type"]) == (429, "rate_limit_error")
    assert int(openai.headers["retry-after"]) >= 1
    assert int(anthropic.headers["retry-after"]) >= 1


async def test_of_an_outside_server(client: Client, switchboard: Switchboard) -> None:
    told = switchboard.outside
    told.release.clear()
    arrived = len(told.requests)
    held = [asyncio.create_task(client.chat("outside", "hold")) for _ in range(OUTSIDE_CAPACITY)]

    async def all_arrived() -> bool:
        return len(told.requests) == arrived + OUTSIDE_CAPACITY

    try:
        await eventually(all_arrived, 10, "the outside server works on as many as are allowed")
        await check_refused(client, "outside")
    finally:
        told.release.set()

    assert [(await task).text for task in held] == ["hello from outside"] * OUTSIDE_CAPACITY
    await idle(client)
    assert (await client.chat("outside", "hello")).text == "hello from outside"


async def test_of_the_engines(client: Client) -> None:
    await idle(client)
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(client.stream(CHAT, long_body())) for _ in range(REPLICAS * CAPACITY))
        streams = await asyncio.gather(*opening)
        assert {stream.replica for stream in streams} == {stream.replica for stream in streams[:8]}

        await check_refused(client, "demo")

        assert all([await stream.event() for stream in streams])
    await idle(client)

    async def heard_of() -> bool:
        return (await client.chat("demo", "Hello")).status == 200

    await eventually(heard_of, AT_ONCE_S, "the routers know that there is room again")
