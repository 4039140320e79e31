"""Requests through each API, and what their answers say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from serve.schemas import Json

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PATHS = (CHAT, RESPONSES, MESSAGES)
QUESTION = "How are you?"


def body(path: str, model: str, *, stream: bool = False, **more: Any) -> Json:
    asked: Json = {"model": model, "stream": stream, **more}
    if path == RESPONSES:
        return asked | {"input": QUESTION}
    asked["messages"] = [{"role": "user", "content": QUESTION}]
    return asked | ({"max_tokens": 64} if path == MESSAGES else {})


@dataclass
class Told:
    """An answer as the client read it. `events` holds a stream's data, `[DONE]` left out."""

    status: int
    headers: Any
    raw: bytes
    events: list[Json]

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def attempts(self) -> int:
        return int(self.headers["x-switchboard-attempts"])

    def text(self, path: str) -> str:
        """What the model said, streamed or not."""
        if self.events:
            return "".join(_delta(path, event) for event in self.events)
        payload = self.json
        if path == CHAT:
            return str(payload["choices"][0]["message"]["content"])
        if path == MESSAGES:
            return "".join(block["text"] for block in payload["content"])
        return "".join(part["text"] for item in payload["output"] for part in item["content"])

    def errors(self) -> list[Json]:
        """Of a stream."""
        return [event for event in self.events if event.get("error") or event.get("type") == "error"]


async def ask(client: aiohttp.ClientSession, path: str, asked: Json, **headers: str) -> Told:
    async with client.post(path, json=asked, headers=headers) as answer:
        raw = await answer.read()
        events = []
        if answer.content_type == "text/event-stream":
            for block in raw.decode().replace("\r\n", "\n").split("\n\n"):
                data = "\n".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
                if data and data != "[DONE]":
                    events.append(json.loads(data))
        return Told(answer.status, answer.headers, raw, events)


def _delta(path: str, event: Json) -> str:
    if path == CHAT:
        return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", []))
    if path == MESSAGES:
        return str(event.get("delta", {}).get("text", "")) if event["type"] == "content_block_delta" else ""
    return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""
