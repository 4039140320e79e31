"""The HTTP server of a manager replica, in the replica's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from typing_extensions import override

from serve.api.http import ASGIApp

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
        self._task: asyncio.Task[None] | None = None

    def start(self, host: str) -> str:
        """Listen on a free port of `host`. Returns the URL that routers reach it at."""
        listener = socket.create_server((host, 0), backlog=BACKLOG)
        # For its connections too: an answer's head and body are two writes, and the second must not wait for the
        # first to be acknowledged. asyncio sees to it only on sockets that name their protocol, unlike this one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        self._task = asyncio.create_task(self.serve(sockets=[listener]))
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        self.should_exit = True
        if self._task is not None:
            await self._task

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
