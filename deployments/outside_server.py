"""A server of OpenAI's dialect somewhere else (Ollama, llama.cpp, another vLLM), as a model of ours."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractAsyncContextManager

import aiohttp

from serve.api.http import Headers as RequestHeaders
from serve.api.http import Message, Receive, Scope, Send, UntilDisconnect, read_body
from serve.config import LocalModel
from serve.errors import EngineFailed, TooManyRequests, Unavailable, UpstreamFailed
from serve.schemas import Load

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 << 20
"""Behind the gateway's own bound, for bodies that default parameters made longer."""
KEPT = frozenset({b"content-type"})
CONTENT_TYPES = frozenset({"application/json", "text/event-stream"})
RETRY_AFTER_S = 1.0


class OutsideServer:
    """Passes a request on to `base_url` with the name that the server knows the model by, and the answer back."""

    def __init__(self, config: LocalModel) -> None:
        assert config.base_url is not None
        self.name = config.model_id
        self._base_url = config.base_url.rstrip("/")
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if config.api_key is not None:
            self._headers["authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        self._session: aiohttp.ClientSession | None = None

    def load(self) -> Load:
        return Load()

    async def check_health(self) -> None:
        """The server's health is its own: a request finds out."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: POST to the same path below `base_url`. Raises a `SwitchboardError`, or `ClientDisconnected`."""
        body = await read_body(receive, RequestHeaders(scope["headers"]), MAX_BODY_BYTES)
        # `base_url` ends in /v1, as the vendors' SDKs want it.
        url = self._base_url + scope["path"].removeprefix("/v1")
        try:
            with UntilDisconnect(receive):
                await self._relay(url, body, send)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable("The model's server cannot be reached.", retry_after_s=RETRY_AFTER_S) from error
        except aiohttp.ClientError as error:
            logger.warning("the model's server broke off: %s", type(error).__name__)
            raise EngineFailed("The model's server failed on this request.") from error

    async def _relay(self, url: str, body: bytes, send: Send) -> None:
        async with self._ask(url, body) as response:
            _check(response)
            await send(_start(response))
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _ask(self, url: str, body: bytes) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._client().post(url, data=body, headers=self._headers, allow_redirects=False)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the manager bounds its requests
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _check(response: aiohttp.ClientResponse) -> None:
    """Refuse what must not reach the caller as it is.

    Our key's troubles are not the caller's, nor are redirects; what went wrong inside the other server is its own
    affair; and a page of HTML is no answer.
    """
    status = response.status
    if status in {401, 403}:
        raise UpstreamFailed("The model's server refused our credentials.")
    if 300 <= status < 400:
        raise UpstreamFailed("The model's server answered with a redirect.")
    if status == 429:
        raise TooManyRequests("The model's server is at its limit.", retry_after_s=_retry_after(response))
    if status == 503:
        raise Unavailable("The model's server cannot take this request.", retry_after_s=_retry_after(response))
    if status >= 500:
        raise EngineFailed("The model's server failed on this request.")
    if response.content_type not in CONTENT_TYPES:
        raise UpstreamFailed("The model's server gave no usable answer.")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds. The header's other form, a date, is not worth reading: a second is as good."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,4}", value) else RETRY_AFTER_S


def _start(response: aiohttp.ClientResponse) -> Message:
    headers = [(k.lower(), v) for k, v in response.raw_headers if k.lower() in KEPT]
    return {"type": "http.response.start", "status": response.status, "headers": headers}
