"""Where a replica listens, and how routers reach it."""

from __future__ import annotations

import pytest

from deployments.replica_server import ReplicaServer
from serve.api.http import Receive, Reply, Scope, Send, send_reply
from serve.config import Timeouts
from serve.gateway.upstream import Upstream


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send_reply(send, Reply(200, [], b"here"))


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
async def test_a_router_reaches_it_at_the_url_that_it_gives(host: str, url: str) -> None:
    server = ReplicaServer(app)
    told = server.start(host)
    upstream = Upstream(Timeouts(), "secret")
    try:
        assert told.startswith(url)
        assert await upstream.get(told, "/metrics", 30) == b"here"
    finally:
        upstream.close()
        await server.stop()
