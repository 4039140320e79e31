"""Keys, secrets and what people say are found nowhere but where they belong (FAULTS 51, 54)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.live.asking import CHAT, MESSAGES, Answer, Client, chat_body
from tests.live.config import ROOT
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

PROMPT = f"canary-prompt-{secrets.token_hex(12)}"


async def test_they_are_in_no_log_no_metric_and_no_error(client: Client, switchboard: Switchboard) -> None:
    answers = [answer async for answer in _answers(client, switchboard)]
    hidden = [word.encode() for word in (*switchboard.secrets, PROMPT)]

    assert [(answer.status, answer.body) for answer in answers if any(word in answer.body for word in hidden)] == []
    metrics = (await client.get("/metrics")).body
    assert [word for word in hidden if word in metrics] == []
    logs = [switchboard.output, ROOT / ".switchboard" / "serve.log", *_files(switchboard.ray_logs)]
    assert len(logs) > 10
    assert [path for path in logs if _holds(path, hidden)] == []


async def _answers(client: Client, switchboard: Switchboard) -> AsyncIterator[Answer]:
    """Good and bad requests of many kinds, all with the words that must not come back or stay behind."""
    asked = chat_body("demo", PROMPT, max_tokens=3)
    yield await client.post("/v1/nowhere", asked)
    for path in (CHAT, MESSAGES):
        await client.post(path, asked)
        yield await client.post(path, asked, {"authorization": f"Bearer {switchboard.client_key}x"})
        yield await client.post(path, asked, {"x-api-key": switchboard.cluster_secret})
        yield await client.post(path, asked | {"temperature": -1})
        yield await client.post(path, asked | {"model": "demo:broken"})
        yield await client.post(path, asked | {"max_tokens": PROMPT})
        yield await client.post(path, asked | {"messages": [{"role": "user", "content": {"x": PROMPT}}]})
        yield await client.post(path, asked | {"model": "outside", "tools": PROMPT})


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _holds(path: Path, words: list[bytes]) -> bool:
    text = path.read_bytes()
    return any(word in text for word in words)
