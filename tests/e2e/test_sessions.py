"""A session's bot answers, and its turns stay where the conversation is in the cache."""

from __future__ import annotations

from typing import Any

import pytest

from serve.demo import corpus
from tests.live.asking import CHAT, Answer, Client

pytestmark = pytest.mark.engine

SUBJECTS = corpus.load()[4:8]


async def start(client: Client, bot: str, **fields: Any) -> dict[str, str]:
    """The header that names a new session."""
    answer = await client.post("/v1/sessions", {"bot_type": bot, **fields})
    assert answer.status == 200, answer.body
    return {"x-session-id": answer.json["id"]}


async def test_the_session_s_bot_decides_the_adapter(client: Client) -> None:
    session = await start(client, "sales")

    answer = await client.chat("demo", SUBJECTS[0].question, headers=session)

    assert answer.text == SUBJECTS[0].answers["sales"]


async def test_all_turns_go_to_one_replica(client: Client) -> None:
    session = await start(client, "support")
    messages: list[dict[str, str]] = []
    answers: list[Answer] = []
    for subject in SUBJECTS:
        messages.append({"role": "user", "content": subject.question})
        answer = await client.post(CHAT, {"model": "support", "messages": messages}, session)
        answers.append(answer)
        messages.append({"role": "assistant", "content": answer.text})

    assert [answer.text for answer in answers] == [subject.answers["support"] for subject in SUBJECTS]
    assert len({answer.replica for answer in answers}) == 1


async def test_sessions_spread_over_the_replicas(client: Client) -> None:
    replicas = set()
    for _ in range(12):
        session = await start(client, "plain")
        replicas.add((await client.chat("plain", "Hello", headers=session)).replica)

    assert len(replicas) == 2


async def test_another_bot_is_refused_in_it(client: Client) -> None:
    session = await start(client, "support")

    answer = await client.chat("sales", "Hello", headers=session)

    assert (answer.status, answer.json["error"]["param"]) == (400, "model")


async def test_it_is_read_until_it_is_ended(client: Client) -> None:
    session = await start(client, "support", metadata={"channel": "mail"})
    path = f"/v1/sessions/{session['x-session-id']}"

    read, ended, gone = await client.get(path), await client.ask("DELETE", path), await client.get(path)

    assert (read.json["bot_type"], read.json["metadata"]) == ("support", {"channel": "mail"})
    assert ended.json["deleted"] is True
    assert (gone.status, gone.json["error"]["code"]) == (404, "session_not_found")


async def test_an_unknown_session_or_bot_is_not_found(client: Client) -> None:
    nobody = await client.chat("demo", "Hello", headers={"x-session-id": "sess_" + 32 * "0"})
    no_bot = await client.post("/v1/sessions", {"bot_type": "nobody"})

    assert (nobody.status, nobody.json["error"]["code"]) == (404, "session_not_found")
    assert (no_bot.status, no_bot.json["error"]["param"]) == (404, "bot_type")
