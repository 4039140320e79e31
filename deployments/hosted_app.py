"""A hosted model's ASGI app: passes on what its provider has, translates what it has not, counts tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

from deployments.hosted_stream import SENSELESS, HostedStream
from deployments.provider import Answer, Provider
from serve.api.endpoints import resolve
from serve.api.errors import stream_error
from serve.api.http import MODEL_HEADERS, Headers, Message, Receive, Scope, Send, UntilDisconnect
from serve.errors import CONTENT_FILTER, InvalidRequest, SwitchboardError, UpstreamFailed
from serve.mlops import metrics
from serve.schemas import Json
from serve.translate.foreign_thinking import without_foreign
from serve.translate.provider_events import STREAMS, error_in, is_filtered
from serve.translate.translator import Incomplete, Translator
from serve.translate.usage import Count, Usage
from serve.translate.vendor_errors import from_event
from serve.translate.vllm import REQUEST, REQUEST_ID

MAX_ANSWER_BYTES = 64 << 20
_FILTERED = (b"x-switchboard-error", CONTENT_FILTER.encode())
"""Tells the router of a good answer in which a filter left nothing: whether that moves on is its to say."""


class HostedApp:
    """`routes` holds for each of our paths None where the provider has the same one, else how to translate.

    `model` is the configured name. `signs_thinking`: whether the provider refuses thinking that it did not sign.
    """

    def __init__(
        self,
        model: str,
        provider: Provider,
        routes: Mapping[str, Translator | None],
        *,
        signs_thinking: bool = False,
    ) -> None:
        self._model = model
        self._provider = provider
        self._routes = routes
        self._signs_thinking = signs_thinking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises a `SwitchboardError` while nothing has been sent, or `ClientDisconnected`."""
        path = scope["path"]
        if path not in self._routes:
            raise InvalidRequest(f"This model's provider has nothing like {path}.", "model", "unsupported_endpoint")
        translator, request = self._routes[path], scope[REQUEST]
        message = await receive()
        body = self._body(path, message["body"], request)
        asked = path if translator is None else translator.path
        headers = _passed(Headers(scope["headers"])) if translator is None else {}
        async with AsyncExitStack() as stack:
            with UntilDisconnect(receive):
                answer = await stack.enter_async_context(self._provider.post(asked, body, headers))
                if request.get("stream") is True and path in STREAMS:
                    await self._stream(scope, send, answer, HostedStream(asked, translator, request))
                else:
                    await self._whole(send, answer, asked, translator, request)
            # The client has all of it, and servers say so just as if it had left.
            await answer.drain()

    def _body(self, path: str, body: bytes, request: Json) -> bytes:
        """What the provider is sent. In its own dialect, that is what came."""
        translator = self._routes[path]
        if translator is not None:
            return json.dumps(translator.request(request)).encode()
        return without_foreign(path, body, request, signs_thinking=self._signs_thinking)

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
            if (error := error_in(payload)) is not None:
                raise from_event(error)
            filtered = is_filtered(asked, payload)
            if translator is not None:
                body = json.dumps(translator.response(payload, request), ensure_ascii=False).encode()
        except (ValueError, RecursionError, Incomplete):
            raise UpstreamFailed(SENSELESS) from None
        length = (b"content-length", str(len(body)).encode())
        await send(_start(b"application/json", length, filtered=filtered))
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
                    await send(_start(b"text/event-stream", filtered=stream.filtered))
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
            await send(_start(b"text/event-stream", filtered=stream.filtered))
        await send({"type": "http.response.body", "body": rest, "more_body": False})

    def _count(self, counts: Iterable[Count]) -> None:
        for kind, source, tokens in counts:
            metrics.TOKENS.labels(self._model, kind, source).inc(tokens)


def _passed(headers: Headers) -> dict[str, str]:
    """What a provider of the same dialect is told besides the body."""
    values = {name: headers.get(name) for name in MODEL_HEADERS}
    return {name.decode(): value.decode("latin-1") for name, value in values.items() if value}


def _start(content_type: bytes, *more: tuple[bytes, bytes], filtered: bool) -> Message:
    headers = [(b"content-type", content_type), *more, *([_FILTERED] if filtered else ())]
    return {"type": "http.response.start", "status": 200, "headers": headers}
