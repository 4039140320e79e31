"""Asks an ASGI app in this process, as an HTTP client would ask a server."""

from __future__ import annotations

import asyncio
import json

from serve.api.http import ASGIApp, Message
from serve.schemas import Json
from serve.translate.vllm import REQUEST


async def call_json(app: ASGIApp, path: str, body: Json) -> Json:
    """POST a JSON body and return the JSON answer. Raises what the app raises, as models' apps do with every error."""
    payload = json.dumps(body).encode()
    sent = False
    chunks: list[bytes] = []
    done = asyncio.Event()

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await done.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": payload, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    scope = json_scope(path)
    scope[REQUEST] = body
    await app(scope, receive, send)
    done.set()
    answer: Json = json.loads(b"".join(chunks))
    return answer


def json_scope(path: str) -> Json:
    """The ASGI scope of a JSON POST that comes from nowhere in particular."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
