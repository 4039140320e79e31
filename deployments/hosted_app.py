"""A hosted model's ASGI app: passes on what its provider has, translates what it has not, counts tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from deployments.hosted_stream import SENSELESS, HostedStream
from deployments.provider import Answer, Provider
from serve.api.endpoints import resolve
from serve.api.errors import stream_error
from serve.api.http import MODEL_HEADERS, Headers, Message, Receive, Scope, Send, UntilDisconnect
from serve.errors import InvalidRequest, SwitchboardError, UpstreamFailed
from serve.mlops import metrics
from serve.schemas import Json
from serve.translate.provider_events import STREAMS
from serve.translate.sealed_thinking import MARKER, without_sealed
from serve.translate.translator import Incomplete, Translator
from serve.translate.usage import Count, Usage
from serve.translate.vendor_errors import from_answer
from serve.translate.vllm import REQUEST, REQUEST_ID

MAX_ANSWER_BYTES = 64 << 20
_SEALED = MARKER.encode()


class HostedApp:
    """`routes` holds for each of our paths None where the provider has the same one, else how to translate.

    `model` is the configured name.
    """

    def __init__(self, model: str, provider: Provider, routes: Mapping[str, Translator | None]) -> None:
        self._model = model
        self._provider = provider
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises a `SwitchboardError` while nothing has been sent, or `ClientDisconnected`."""
        path = scope["path"]
        if path not in self._routes:
            raise InvalidRequest(f"This model's provider has nothing like {path}.", "model", "unsupported_endpoint")
        translator, request = self._routes[path], scope[REQUEST]
        message = await receive()
        body = _as_it_came(message["body"], request) if translator is None else _dumped(translator.request(request))
        asked = path if translator is None else translator.path
        headers = _passed(Headers(scope["headers"])) if translator is None else {}
        with UntilDisconnect(receive):
            async with self._provider.post(asked, body, headers) as answer:
                if request.get("stream") is True and path in STREAMS:
                    await self._stream(scope, send, answer, HostedStream(asked, translator, request))
                else:
                    await self._whole(send, answer, asked, translator, request)

    async def _whole(
        self, send: Send, answer: Answer, asked: str, translator: Translator | None, request: Json
    ) -> None:
        if answer.content_type != "application/json":
            raise UpstreamFailed(SENSELESS)
        body = await answer.read(MAX_ANSWER_BYTES)
        try:
            payload = json.loads(body)
            if not isinstance(payload, dict):
                raise UpstreamFailed(SENSELESS)
            usage = Usage(asked)
            usage.read(payload)
            self._count(usage.counts())
            if isinstance(payload.get("error"), dict):
                raise from_answer(502, body, {})
            if translator is not None:
                body = json.dumps(translator.response(payload, request), ensure_ascii=False).encode()
        except (ValueError, RecursionError, Incomplete):
            raise UpstreamFailed(SENSELESS) from None
        await send(_start(b"application/json", (b"content-length", str(len(body)).encode())))
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, scope: Scope, send: Send, answer: Answer, stream: HostedStream) -> None:
        if answer.content_type != "text/event-stream":
            raise UpstreamFailed(SENSELESS)
        try:
            await self._copy(scope, send, answer, stream)
        finally:
            # However it ended, and if the client has left: what came is what the provider charges for.
            self._count(stream.tokens())

    async def _copy(self, scope: Scope, send: Send, answer: Answer, stream: HostedStream) -> None:
        started, last = False, b""
        try:
            async for chunk in answer.chunks():
                events = stream.feed(chunk)
                if not events:
                    continue
                if not started:
                    started = True
                    await send(_start(b"text/event-stream"))
                last = events
                await send({"type": "http.response.body", "body": events, "more_body": True})
                if stream.stopped:
                    break
            rest = stream.finish()
        except SwitchboardError as error:
            if not started:
                raise
            kind = resolve("POST", scope["path"], Headers([])).endpoint.kind
            rest = stream_error(error, kind, scope.get(REQUEST_ID, "-"), last)
        if not started:
            await send(_start(b"text/event-stream"))
        await send({"type": "http.response.body", "body": rest, "more_body": False})

    def _count(self, counts: Iterable[Count]) -> None:
        for kind, source, tokens in counts:
            metrics.TOKENS.labels(self._model, kind, source).inc(tokens)


def _as_it_came(body: bytes, request: Json) -> bytes:
    """But for what only another provider could read: a conversation may have moved here from there."""
    return _dumped(without_sealed(request)) if _SEALED in body else body


def _dumped(request: Json) -> bytes:
    return json.dumps(request).encode()


def _passed(headers: Headers) -> dict[str, str]:
    """What a provider of the same dialect is told besides the body."""
    values = {name: headers.get(name) for name in MODEL_HEADERS}
    return {name.decode(): value.decode("latin-1") for name, value in values.items() if value}


def _start(content_type: bytes, *more: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type), *more]}
