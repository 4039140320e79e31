"""A small HTTP server on loopback that answers with given bytes, cut where the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

Pieces = Sequence[bytes]


@asynccontextmanager
async def answering(*answers: Pieces, then_close: bool = False) -> AsyncIterator[tuple[int, list[int]]]:
    """Yields the port and the requests' count per connection. The n-th request gets the n-th answer, in its pieces."""
    left = list(answers)
    requests: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = len(requests)
        requests.append(0)
        try:
            while left:
                await _read_request(reader)
                requests[place] += 1
                for piece in left.pop(0):
                    writer.write(piece)
                    await writer.drain()
                    # Lets the client read what has come, so that it sees the cut.
                    await asyncio.sleep(0)
                if then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], requests


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    return await reader.readexactly(length)


def stream(events: Sequence[bytes], *, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    """A chunked answer with a chunk for each event."""
    head = b"HTTP/1.1 " + status + b"\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n" + headers
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return head + b"\r\n" + chunks + b"0\r\n\r\n"


def cut(data: bytes, places: Sequence[int]) -> Pieces:
    """`data` in pieces that end at `places`."""
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


Cut = Callable[[bytes], Pieces]
