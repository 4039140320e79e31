"""A client that writes bytes, for requests that no HTTP library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fakes.http_server import PATIENCE_S


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(
        self, path: str, body: bytes = b"", method: str = "POST", *, length: int | None = None, **headers: str
    ) -> None:
        """Write a request. `length` is what it declares of its body, where that is not the truth."""
        fields = {"host": "x", "content-length": str(len(body) if length is None else length)} | headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)

    async def reply(self) -> Reply:
        """Read a whole answer. Raises `IncompleteReadError` where there is none."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
            line, *fields = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            return Reply(int(line.split()[1]), headers, body)

    async def read_until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readuntil(end)


@asynccontextmanager
async def wired(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
