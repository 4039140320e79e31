"""An engine without a model in it: takes adapters by reading their files, and answers by saying what it was asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

from serve.api.http import ASGIApp, Headers, Receive, Reply, Scope, Send, read_body, send_reply
from serve.schemas import AdapterRef, Json, Load


class EchoApp:
    """Stands where vLLM's app does. `asked` has every request that reached it; `behave` answers in its place."""

    def __init__(self) -> None:
        self.asked: list[Json] = []
        self.scopes: list[Scope] = []
        self.behave: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads(await read_body(receive, Headers(scope["headers"]), 1 << 20))
        self.asked.append(body)
        self.scopes.append(scope)
        if self.behave is not None:
            await self.behave(scope, receive, send)
            return
        said = json.dumps({key: body[key] for key in sorted(body)})
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        completion = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice]}
        payload = json.dumps(completion | {"model": body["model"]}).encode()
        await send_reply(send, Reply(200, [(b"content-type", b"application/json")], payload))


@dataclass
class FakeEngine:
    """What `VllmEngine` is to a manager."""

    name: str
    base_path: Path
    slots: int = 2
    max_rank: int = 8
    app: EchoApp = field(default_factory=EchoApp)
    weights: dict[str, bytes] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    reported: Load = field(default_factory=Load)
    dead: bool = False
    closed: bool = False

    async def add_adapter(self, ref: AdapterRef, path: Path) -> None:
        self.loads.append(ref.address)
        self.weights[ref.address] = (path / "adapter_model.safetensors").read_bytes()
        assert len(self.weights) <= self.slots

    async def remove_adapter(self, ref: AdapterRef) -> None:
        del self.weights[ref.address]

    def load(self) -> Load:
        return self.reported

    async def check_health(self) -> None:
        if self.dead:
            raise RuntimeError("EngineDeadError")

    async def close(self) -> None:
        self.closed = True


class Held:
    """An app that begins nothing until released, and knows when its client has left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered.set()
        goodbye = asyncio.create_task(_goodbye(receive, self.left))
        released = asyncio.create_task(self.release.wait())
        await asyncio.wait([goodbye, released], return_when=asyncio.FIRST_COMPLETED)
        for task in (goodbye, released):
            task.cancel()
        if not self.left.is_set():
            await send_reply(send, Reply(200, [(b"content-type", b"application/json")], b"{}"))


async def _goodbye(receive: Receive, left: asyncio.Event) -> None:
    if (await receive())["type"] == "http.disconnect":
        left.set()
