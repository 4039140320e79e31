"""A manager's own HTTP face, which only routers talk to.

It checks the cluster's secret, bounds what is in flight, puts the adapter in place, completes the parameters, and
hands the request to the model's app. The model and adapter come in the router's headers, never from the body.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import generate_latest

from deployments.base_llm_manager import NOT_PARAMETERS, BaseLLMManager
from serve.api.endpoints import dialect_of, resolve
from serve.api.errors import render
from serve.api.http import (
    MODEL_HEADERS,
    ClientDisconnected,
    Headers,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    read_body,
    send_reply,
)
from serve.api.requests import has_fallbacks_of_its_provider, parse_object
from serve.errors import (
    AT_CAPACITY,
    EngineFailed,
    InvalidRequest,
    NotFound,
    SwitchboardError,
    TooManyRequests,
    Unavailable,
)
from serve.mlops import metrics
from serve.schemas import AdapterRef
from serve.translate.vllm import REQUEST, REQUEST_ID

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0


class ManagerApp:
    """ASGI. `body_bytes` bounds each request's body; `limit` may change it, and bounds the requests in flight."""

    def __init__(self, manager: BaseLLMManager, secret: str, body_bytes: int, capacity: int = 0) -> None:
        if not secret:
            raise ValueError("without a secret anybody could call")
        self._manager = manager
        self._secret = secret.encode()
        self._body_bytes = body_bytes
        self.capacity = capacity
        self.in_flight = 0
        self._by_model: Counter[str] = Counter()
        self._model_limits: Mapping[str, int] = {}
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    def limit(self, body_bytes: int, in_flight: Mapping[str, int]) -> None:
        """From now on. `in_flight` bounds the requests of each model; together they are the replica's capacity."""
        self._body_bytes = body_bytes
        self._model_limits = dict(in_flight)
        self.capacity = sum(in_flight.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope["headers"])
        if not hmac.compare_digest(headers.get(b"x-switchboard-secret") or b"", self._secret):
            metrics.MANAGER_REFUSED.labels("secret").inc()
            await send_reply(send, Reply(403, [(b"content-type", b"text/plain")], b"Only the cluster's own may call."))
            return
        if scope["method"] == "GET" and scope["path"] == "/metrics":
            await send_reply(send, Reply(200, [(b"content-type", b"text/plain; version=0.0.4")], generate_latest()))
            return
        await self._answer(scope, headers, receive, send)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            model = _text(headers, b"x-switchboard-model")
            if model is None:
                raise InvalidRequest("The router named no model.", "model")
            with self._admitted(model):
                await self._ask_model(model, scope, headers, receive, watched_send)
        except ClientDisconnected:
            return
        except SwitchboardError as error:
            if started:
                raise
            await send_reply(send, _rendered(error, scope, headers))
        except Exception as error:
            # The outermost frame of a request: whatever it is, the router gets an answer and the log the reason.
            logger.exception("request=%s failed", _text(headers, b"x-request-id"))
            if started:
                raise
            await send_reply(send, _rendered(error, scope, headers))

    @contextmanager
    def _admitted(self, model: str) -> Iterator[None]:
        if self.draining:
            metrics.MANAGER_REFUSED.labels("draining").inc()
            raise Unavailable("This replica is shutting down.", retry_after_s=RETRY_AFTER_S)
        full = self._by_model[model] >= self._model_limits.get(model, self.capacity)
        if full or self.in_flight >= self.capacity:
            metrics.MANAGER_REFUSED.labels("full").inc()
            raise TooManyRequests(
                "The model is at its limit of requests in flight.", None, AT_CAPACITY, retry_after_s=RETRY_AFTER_S
            )
        self.in_flight += 1
        self._by_model[model] += 1
        self.idle.clear()
        metrics.MANAGER_IN_FLIGHT.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self._by_model[model] -= 1
            if not self.in_flight:
                self.idle.set()
            metrics.MANAGER_IN_FLIGHT.set(self.in_flight)

    async def _ask_model(self, model: str, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        endpoint = resolve(scope["method"], scope["path"], headers).endpoint
        if not endpoint.forwards:
            raise NotFound("No model answers here.")
        ref = _adapter(_text(headers, b"x-switchboard-adapter"))
        body = parse_object(await read_body(receive, headers, self._body_bytes))
        bot = _text(headers, b"x-switchboard-bot")
        said = {name: value for name, value in body.items() if name not in NOT_PARAMETERS}
        if has_fallbacks_of_its_provider(endpoint.kind, body):
            said["fallbacks"] = body["fallbacks"]
        params = self._manager.prepare_inference_params(model, bot_type=bot, endpoint=endpoint.kind, **said)
        async with self._manager.ready_to_answer(model, ref) as (app, engine_name):
            params["model"] = engine_name
            payload = json.dumps(params, ensure_ascii=False).encode()
            inner = _inner_scope(scope, len(payload))
            inner[REQUEST] = params
            inner[REQUEST_ID] = _text(headers, b"x-request-id") or "-"
            await app(inner, _replay(payload, receive), send)


def _replay(payload: bytes, receive: Receive) -> Receive:
    """Gives the prepared body once, then whatever the real client says: that it has left."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": payload, "more_body": False}

    return replayed


def _inner_scope(scope: Scope, length: int) -> Scope:
    """The model's app sees a plain JSON request: of the client's headers, those that mean something to a model."""
    inner = dict(scope)
    inner["headers"] = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(length).encode()),
        *(header for header in scope["headers"] if header[0] in MODEL_HEADERS),
    ]
    return inner


def _rendered(error: Exception, scope: Scope, headers: Headers) -> Reply:
    request_id = _text(headers, b"x-request-id") or "-"
    if isinstance(error, EngineFailed):
        logger.error("request=%s the engine failed", request_id)
    reply = render(error, dialect_of(scope["path"], headers), request_id)
    code = error.code if isinstance(error, SwitchboardError) else None
    named = (b"x-switchboard-error", (code or "internal_error").encode("latin-1", "replace"))
    return Reply(reply.status, [*reply.headers, named], reply.body)


def _text(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return value.decode("latin-1") if value else None


def _adapter(address: str | None) -> AdapterRef | None:
    """Read `model:name@digest` as the router wrote it."""
    if address is None:
        return None
    path, _, digest = address.rpartition("@")
    model, _, name = path.rpartition(":")
    return AdapterRef(model, name, digest)
