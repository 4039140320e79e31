"""The gateway: one ASGI app in front of every model. What Serve's router replicas run, and tests without Serve.

Its parts: `auth` (who may call), `forwarding` (requests that a model answers), `pages` (what the gateway answers
itself), `state` (what it knows of the cluster).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import generate_latest

from serve.api.endpoints import Kind, Match, dialect_of, forwards, resolve
from serve.api.errors import render
from serve.api.http import ClientDisconnected, Headers, Receive, Scope, Send, clean_request_id
from serve.config import Settings
from serve.errors import AT_CAPACITY, InvalidRequest, SwitchboardError, TooManyRequests, Unavailable
from serve.gateway.auth import AdminKeys, ClientKeys
from serve.gateway.exchange import NOT_ASKED, Exchange
from serve.gateway.forwarding import Forwarding
from serve.gateway.pages import Pages
from serve.gateway.session_pages import SessionPages
from serve.gateway.state import GatewayState, RegistrySource
from serve.gateway.upstream import Upstream
from serve.mlops import metrics
from serve.quoting import printable
from serve.schemas import Dialect
from serve.sessions import SessionManager
from serve.tasks import why_ended

logger = logging.getLogger(__name__)

OPEN = frozenset({Kind.HEALTH, Kind.READY})
"""What probes ask, who have no key."""
ADMIN = frozenset({Kind.REPLICAS})
METRICS_PERIOD_S = 2.0
PURGE_PERIOD_S = 60.0
PURGE_BATCH = 1000
CLIENT_GONE = 499
SAYS_REQUEST_ID = "switchboard.says_request_id"
"""In the scope of a request whose answer gets its `x-request-id` further out."""


class Gateway:
    """ASGI. `wake` asks a model's deployment for a first replica."""

    def __init__(
        self,
        settings: Settings,
        source: RegistrySource,
        router_id: str,
        wake: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._source = source
        self._router_id = router_id
        self._wake = wake
        self._keys = ClientKeys(settings.auth.key_digests)
        self._admin_keys = AdminKeys(settings.auth.admin_key_digests, settings.auth.key_digests)
        self.state = GatewayState(settings)
        self._in_flight = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def start(self) -> None:
        """Open the pools and follow the registry. Raises `ConfigError` for a store that is none of ours."""
        settings = self._settings
        sessions = self._sessions = SessionManager.from_settings(settings.sessions)
        await sessions.check()
        self._upstream = Upstream(settings.timeouts, settings.cluster.secret.get_secret_value())
        self._forwarding = Forwarding(self.state, self._upstream, sessions, self._wake)
        self._pages = Pages(self.state, self._upstream, self._source, self._router_id)
        self._session_pages = SessionPages(self.state, sessions)
        self._tasks = [
            asyncio.create_task(self.state.follow(self._source)),
            asyncio.create_task(self._publish_metrics()),
            asyncio.create_task(self._purge_sessions(sessions)),
        ]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._upstream.close()
        await self._sessions.close()

    def check_health(self) -> None:
        """Raise `RuntimeError` if one of its own tasks has ended, which none does while it serves."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError("a task of the gateway has ended") from why_ended(task)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope["headers"])
        request_id = clean_request_id(headers.get(b"x-request-id"))
        exchange = Exchange(scope, receive, send, request_id, dialect_of(scope["path"], headers))
        if SAYS_REQUEST_ID not in scope:
            exchange.extra_headers.append((b"x-request-id", request_id.encode()))
        if exchange.dialect is Dialect.ANTHROPIC:
            exchange.extra_headers.append((b"request-id", request_id.encode()))
        if forwards(scope["path"]):
            exchange.served_by = NOT_ASKED  # until somebody is
        started = asyncio.get_running_loop().time()
        try:
            await self._dispatch(exchange)
        except ClientDisconnected:
            exchange.status = CLIENT_GONE
        except SwitchboardError as error:
            await self._refuse(exchange, error)
        except Exception as error:
            # The outermost frame of a request: whatever it is, the caller gets an answer and the log the reason.
            logger.exception("request=%s failed", request_id)
            await self._refuse(exchange, error)
        finally:
            self._record(exchange, started)

    async def _dispatch(self, exchange: Exchange) -> None:
        method, path = exchange.scope["method"], exchange.scope["path"]
        if exchange.scope["http_version"] == "1.1" and exchange.headers.count(b"host") != 1:
            raise InvalidRequest("A request must name its host exactly once.")  # RFC 9112, section 3.2
        match = self._let_in(exchange, method, path)
        exchange.endpoint = match.endpoint.kind
        if match.endpoint.forwards:
            with self._admitted():
                await self._forwarding.answer(exchange, match)
        elif match.endpoint.kind in (Kind.SESSIONS, Kind.SESSION):
            with self._admitted():
                await self._session_pages.answer(exchange, match)
        else:
            await self._pages.answer(exchange, match)

    def _let_in(self, exchange: Exchange, method: str, path: str) -> Match:
        """The endpoint, for a caller who may use it. Who has no key learns nothing of what else there is."""
        try:
            match = resolve(method, path, exchange.headers)
        except SwitchboardError:
            self._keys.check(exchange.headers)
            raise
        if match.endpoint.kind in ADMIN:
            self._admin_keys.check(exchange.headers)
        elif match.endpoint.kind not in OPEN:
            self._keys.check(exchange.headers)
        return match

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._in_flight >= self.state.settings.limits.max_in_flight:
            raise TooManyRequests("Too many requests are in flight.", None, AT_CAPACITY, retry_after_s=1.0)
        self._in_flight += 1
        metrics.IN_FLIGHT.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.set(self._in_flight)

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        if exchange.started:
            # The status is out; cutting the connection is the only way left to say that this is not the end.
            raise error
        await exchange.reply(render(error, exchange.dialect, exchange.request_id))

    def _record(self, exchange: Exchange, started: float) -> None:
        status = exchange.status or CLIENT_GONE
        ended = asyncio.get_running_loop().time()
        metrics.REQUESTS.labels(exchange.endpoint, exchange.model, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(exchange.endpoint, exchange.model).observe(ended - started)
        if exchange.first_byte_at is not None:
            metrics.FIRST_BYTE_SECONDS.labels(exchange.endpoint, exchange.model).observe(
                exchange.first_byte_at - started
            )
        logger.info(
            "request=%s path=%s model=%s status=%d seconds=%.4f",
            exchange.request_id,
            printable(exchange.scope["path"], 100),
            exchange.model,
            status,
            ended - started,
        )

    async def _publish_metrics(self) -> None:
        """Leave this router's metrics where every other router's `/metrics` finds them."""
        while True:
            metrics.REGISTRY_AGE_SECONDS.set(self.state.snapshot_age_s)
            try:
                await self._source.exchange_metrics(self._router_id, generate_latest())
                await self.share_outages()
            except Unavailable:
                logger.warning("the registry does not answer: other routers know nothing new of this one")
            await asyncio.sleep(METRICS_PERIOD_S)

    async def share_outages(self) -> None:
        """Tell the other routers which models this one leaves out, and hear theirs."""
        breakers = self.state.breakers
        breakers.hear(await self._source.share_outages(self._router_id, breakers.outages()))
        for model, state in breakers.states().items():
            for name in ("closed", "half-open", "open"):
                metrics.BREAKER_STATE.labels(model, name).set(name == state)

    async def _purge_sessions(self, sessions: SessionManager) -> None:
        while True:
            try:
                while await sessions.purge_expired(PURGE_BATCH) == PURGE_BATCH:
                    pass
            except Unavailable:
                logger.warning("the store does not answer: expired sessions stay for now")
            await asyncio.sleep(PURGE_PERIOD_S)


class WithoutRequestId:
    """The gateway for a server that answers with `x-request-id` itself."""

    # A class, for uvicorn takes a bound method for an app of ASGI 2.

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway({**scope, SAYS_REQUEST_ID: True}, receive, send)


def _report(task: asyncio.Task[None]) -> None:
    """None of a gateway's own tasks ends while it serves; one that does must not do so in silence."""
    if (error := why_ended(task)) is not None:
        logger.error("a task of the gateway has ended", exc_info=error)
