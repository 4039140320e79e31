"""Bytes that are hardly HTTP (FAULTS 1-6), as HAProxy and the gateway answer them together."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.asking import Client
from tests.live.config import BODY_TIMEOUT_S, CLIENT_TIMEOUT_S
from tests.live.eventually import eventually
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

BODY = b'{"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}'
ANSWERED_S = 10.0


class Raw:
    """A TCP connection to the front."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._port = switchboard.port
        self._key = switchboard.client_key.encode()

    async def __aenter__(self) -> Raw:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *args: object) -> None:
        self._writer.close()

    def head(self, *lines: bytes, host: bytes = b"Host: localhost\r\n") -> bytes:
        fields = b"".join(line + b"\r\n" for line in (b"Authorization: Bearer " + self._key, *lines))
        return b"POST /v1/chat/completions HTTP/1.1\r\n" + host + fields + b"\r\n"

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # it has closed already; what it said can still be read

    async def all(self, within_s: float) -> bytes:
        """Everything until the other side closes, which it must within the time."""
        async with asyncio.timeout(within_s):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def status(self, within_s: float = ANSWERED_S) -> int:
        async with asyncio.timeout(within_s):
            line = await self._reader.readline()
        return int(line.split()[1]) if line else 0


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: -1",),
        (b"Content-Length: 1e3",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding : chunked",),
        (b"X-Bad Name: 1",),
    ],
    ids=["two lengths", "negative", "exponent", "chunked not last", "unknown coding", "space before colon", "bad name"],
)
async def test_a_request_of_doubtful_length_is_refused_and_its_connection_closed(
    switchboard: Switchboard, lines: tuple[bytes, ...]
) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(*lines) + BODY)

        answer = await raw.all(ANSWERED_S)

    assert answer.split(b" ")[1] in (b"400", b"501"), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_length_beside_chunks_smuggles_nothing(switchboard: Switchboard) -> None:
    """RFC 9112, 6.3: such a request is refused, or read as chunks with the connection closed after it."""
    smuggled = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + chunks + smuggled)

        answer = await raw.all(CLIENT_TIMEOUT_S + ANSWERED_S)

    assert answer.split(b" ")[1] in (b"200", b"400"), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("host", [b"", b"Host: one\r\nHost: two\r\n"], ids=["no host", "two hosts"])
async def test_exactly_one_host_is_wanted(switchboard: Switchboard, host: bytes) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(b"Content-Length: %d" % len(BODY), host=host) + BODY)

        assert await raw.status() == 400


async def test_a_host_with_a_path_opens_no_door(switchboard: Switchboard) -> None:
    """CVE-2026-48710: what is authorised is the path of the request line."""
    async with Raw(switchboard) as raw:
        await raw.send(b"GET /metrics HTTP/1.1\r\nHost: a/health?b=\r\n\r\n")

        assert await raw.status() in (400, 401)


@pytest.mark.parametrize(
    "lines",
    [(b"X-Long: " + b"x" * 100_000,), tuple(b"X-Many-%d: 1" % n for n in range(5000))],
    ids=["100 KB", "5000 headers"],
)
async def test_too_much_of_headers_is_refused(switchboard: Switchboard, lines: tuple[bytes, ...]) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(*lines))

        assert await raw.status() in (400, 431)


async def test_silence_inside_the_headers_ends_the_connection(switchboard: Switchboard) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")

        answer = await raw.all(CLIENT_TIMEOUT_S + ANSWERED_S)

    assert answer == b"" or b" 408 " in answer


async def test_a_body_that_does_not_come_is_timed_out_and_its_slot_freed(
    switchboard: Switchboard, client: Client
) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(b"Content-Type: application/json", b"Content-Length: 500") + BODY)

        assert await raw.status(BODY_TIMEOUT_S + CLIENT_TIMEOUT_S + ANSWERED_S) == 408

    async def free() -> bool:
        return (await client.metrics()).total("switchboard_in_flight") == 0

    assert await eventually(free, 10, "no request is in flight")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(switchboard: Switchboard) -> None:
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(b"Content-Type: application/json", b"Content-Length: 999999999"))

        assert await raw.status() == 413


async def test_a_chunked_body_over_the_limit_is_refused_on_the_way(switchboard: Switchboard) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with Raw(switchboard) as raw:
        await raw.send(raw.head(b"Content-Type: application/json", b"Transfer-Encoding: chunked"))
        for _ in range(17):
            await raw.send(chunk)

        assert await raw.status() == 413
