"""A client that goes away takes its work with it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.live.asking import CHAT, MESSAGES, RESPONSES, Client
from tests.live.eventually import eventually
from tests.live.watching import idle, long_body, long_tokens, running_in_engines, written

pytestmark = pytest.mark.engine

CLIENTS = 8
SOON_S = 20.0


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_in_the_middle_of_a_stream(client: Client, path: str) -> None:
    await idle(client)
    before = await written(client)
    body = long_body()
    if path == RESPONSES:
        body = {"model": "demo", "input": "Hello", "max_output_tokens": long_tokens(), "ignore_eos": True}
    async with AsyncExitStack() as stack:
        for _ in range(CLIENTS):
            stream = await stack.enter_async_context(client.stream(path, body))
            assert await stream.event()

    await _all_given_up(client, before)


async def _all_given_up(client: Client, before: float) -> None:
    async def none_runs() -> bool:
        return await running_in_engines(client) == 0

    await eventually(none_runs, SOON_S, "the engines work on nothing")
    assert await written(client) - before < CLIENTS * long_tokens(), "they ran on to their ends"
    await idle(client)
