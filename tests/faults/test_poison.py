"""Requests that would end a vLLM engine are refused, while others run in it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.asking import CHAT, COMPLETIONS, Client, chat_body
from tests.live.processes import engine
from tests.live.running import Switchboard
from tests.live.watching import long_body, whole

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (COMPLETIONS, {"model": "demo", "prompt": "Hello", "prompt_logprobs": 1}, "prompt_logprobs"),
        (COMPLETIONS, {"model": "demo:support", "prompt": "Hello", "echo": True, "logprobs": 1}, "echo"),
        (CHAT, chat_body("demo", "Hello", prompt_logprobs=1), "prompt_logprobs"),
        (CHAT, chat_body("demo", "Hello", echo=True, logprobs=True), "echo"),
    ],
    ids=["completion", "completion's echo", "chat", "chat's echo"],
)
async def test_no_engine_dies_of_it(
    client: Client, switchboard: Switchboard, path: str, body: dict[str, Any], named: str, stream: bool
) -> None:
    before = await _engines(client, switchboard)
    async with client.stream(CHAT, long_body()) as one, client.stream(CHAT, long_body()) as two:
        for running in (one, two):
            assert await running.event()

        answer = await client.post(path, body | {"stream": stream})

        assert (answer.status, answer.json["error"]["param"]) == (400, named)
        for running in (one, two):
            event = await running.event()
            assert event is not None
            assert event[1]["choices"]
    assert await _engines(client, switchboard) == before


async def _engines(client: Client, switchboard: Switchboard) -> set[int]:
    return {engine(one).pid for one in (await whole(client, switchboard)).values()}
