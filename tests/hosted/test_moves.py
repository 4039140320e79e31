"""A conversation that moves from one provider to another, which is sent nothing that only the first one could read."""

from __future__ import annotations

import aiohttp
import pytest

from serve.schemas import Json
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.vendors import TEXT
from tests.hosted.asking import CHAT, MESSAGES, ask, body
from tests.hosted.conftest import Hosted

THOUGHT: Json = {"type": "thinking", "thinking": "Hm", "signature": "Eq" + "Ab0+/" * 40}
SAID: Json = {"type": "text", "text": TEXT}


async def go_on(client: aiohttp.ClientSession, path: str, model: str, answer: Json) -> None:
    """Ask `model` the next question after this answer."""
    asked = body(path, model)
    (question,) = asked["messages"]
    told = await ask(client, path, asked | {"messages": [question, answer, question]})
    assert told.status == 200


async def sent(hosted: Hosted, model: str) -> list[Json]:
    """What the model saw of that answer."""
    turns: list[Json] = (await hosted.vendors[model].call()).json["messages"]
    return turns[1:-1]


async def test_from_claude_to_openai(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    thinking = vendors.message("claude") | {"content": [THOUGHT, SAID]}
    hosted.vendors["claude"].behave = fake.answers(thinking)
    answer = (await ask(client, CHAT, body(CHAT, "claude"))).json["choices"][0]["message"]
    assert answer["thinking_blocks"] == [THOUGHT]
    await go_on(client, CHAT, "gpt", answer)
    assert await sent(hosted, "gpt") == [{"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}]


async def test_and_back_to_claude(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    answer = {"role": "assistant", "content": TEXT, "reasoning_content": "Hm", "thinking_blocks": [THOUGHT]}
    await go_on(client, CHAT, "claude", answer)
    assert await sent(hosted, "claude") == [{"role": "assistant", "content": [THOUGHT, SAID]}]


async def test_from_a_reasoner_of_openais_dialect_to_claude(hosted: Hosted, client: aiohttp.ClientSession) -> None:
    reasoned = vendors.whole(CHAT, "groq")
    reasoned["choices"][0]["message"]["reasoning_content"] = "Hm"
    hosted.vendors["groq"].behave = fake.answers(reasoned)
    content = (await ask(client, MESSAGES, body(MESSAGES, "groq"))).json["content"]
    assert content[0] == {"type": "thinking", "thinking": "Hm", "signature": ""}
    await go_on(client, MESSAGES, "claude", {"role": "assistant", "content": content})
    assert await sent(hosted, "claude") == [{"role": "assistant", "content": content[1:]}]


@pytest.mark.parametrize("signature", ["", "0123456789abcdef" * 2])
async def test_a_server_of_anthropics_dialect_that_signs_nothing_keeps_its_own(
    hosted: Hosted, client: aiohttp.ClientSession, signature: str
) -> None:
    answer = {"role": "assistant", "content": [THOUGHT | {"signature": signature}, SAID]}
    await go_on(client, MESSAGES, "far", answer)
    assert await sent(hosted, "far") == [answer]
