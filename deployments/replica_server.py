"""The HTTP server of a manager replica, in the replica's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from typing_extensions import override

from serve.api.http import ASGIApp
from serve.config import family_of, url_of

BACKLOG = 2048


class ReplicaServer(uvicorn.Server):
    """uvicorn. The process's signals stay Ray's."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http="httptools",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                # Longer than a router keeps an idle connection, so that it is never closed under a request.
                timeout_keep_alive=75,
            )
        )
        self.task: asyncio.Task[None] | None = None
        """Set by `start`; ends when the server does."""

    def start(self, host: str) -> str:
        """Listen on a free port of `host`. Returns the URL that routers reach it at."""
        listener = socket.create_server((host, 0), family=family_of(host), backlog=BACKLOG)
        # For its connections too: an answer's head and body are two writes, and the second must not wait for the
        # first to be acknowledged. asyncio sees to it only on sockets that name their protocol, unlike this one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.task = asyncio.create_task(self.serve(sockets=[listener]))
        return url_of(host, listener.getsockname()[1])

    async def stop(self) -> None:
        self.should_exit = True
        if self.task is not None:
            await self.task

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
