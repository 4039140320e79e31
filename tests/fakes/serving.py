"""An ASGI app behind a real uvicorn, in the test's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from serve.api.http import ASGIApp


@asynccontextmanager
async def served(app: ASGIApp, *, lifespan: bool = False) -> AsyncIterator[str]:
    """The URL that `app` answers at.

    At the end connections are cut: uvicorn's own way down takes tenths of a second.
    """
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http="httptools",
        ws="none",
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    # asyncio does so by itself only for sockets that name their protocol, which this one does not (3.11).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in server.servers:
            each.close()
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*server.server_state.tasks)
        await server.lifespan.shutdown()
