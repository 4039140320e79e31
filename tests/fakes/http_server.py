"""An HTTP/1.1 server on a free port of loopback that does, byte for byte, what a test asks of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

PATIENCE_S = 20.0
"""How long a test waits for what must happen. Never reached when all is well."""


@dataclass
class Call:
    """One request that arrived, and the connection to answer it on."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    """As they came, names in lower case."""
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The other side has closed the connection."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The behaviour has done all that it does."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def start(self, status: int = 200, *headers: tuple[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """A piece of a body in chunked encoding; an empty one ends it, and comes apart from the piece before."""
        if not data:
            for _ in range(3):
                await asyncio.sleep(0)  # who is in this loop too has by then read that piece
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        """Break the connection off with a RST, as the kernel does for a process that was killed."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def until_gone(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.gone.wait()


Behaviour: TypeAlias = Callable[[Call], Awaitable[None]]


class HttpServer:
    """Answers each request by `behave`. `calls` lists all that came."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.calls: list[Call] = []
        self.connections = 0
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def listen(self) -> None:
        """On the same port again after `refuse`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Accept no connection any more; those that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def die(self) -> None:
        """As a killed process: nothing listens, and what was open is reset."""
        await self.refuse()
        for call in self.calls:
            if not call.writer.is_closing():
                call.reset()

    async def close(self) -> None:
        await self.refuse()
        for _ in range(5):
            await asyncio.sleep(0)  # what was accepted last becomes a task in a few turns of the loop
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def call(self, number: int = 0) -> Call:
        """The request with this number, waited for if need be."""
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) > number)
        return self.calls[number]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        following = asyncio.create_task(_read(reader, writer))
        try:
            while (call := await following) is not None:
                following = asyncio.create_task(_read(reader, writer))
                following.add_done_callback(partial(_tell_if_gone, call.gone))
                async with self._arrived:
                    self.calls.append(call)
                    self._arrived.notify_all()
                with contextlib.suppress(ConnectionError):
                    await self.behave(call)
                call.finished.set()
                if writer.is_closing():
                    break
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await _close(writer)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    """The next request; None at the connection's end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        method, path, _ = line.split(" ")
        headers = [(name.lower(), value.strip()) for name, _, value in (entry.partition(":") for entry in fields)]
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        return Call(method, path, headers, await reader.readexactly(length), writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _close(writer: asyncio.StreamWriter) -> None:
    """Let what was written get out, unless the other side takes nothing any more."""
    writer.close()
    try:
        async with asyncio.timeout(1):
            await writer.wait_closed()
    except (ConnectionError, TimeoutError):
        writer.transport.abort()


def _tell_if_gone(gone: asyncio.Event, task: asyncio.Task[Call | None]) -> None:
    if task.cancelled() or task.result() is None:
        gone.set()


@asynccontextmanager
async def listening(server: HttpServer) -> AsyncIterator[None]:
    await server.listen()
    try:
        yield
    finally:
        await server.close()
