"""A hosted provider as a manager asks it: one POST, answered by a status, headers and a body that may stream.

The vendors' SDKs do the asking. They come from one generator, so that one class drives both; their retries are off, for
the router decides what is asked again. Their exceptions do not survive Ray's pickling and end here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import anthropic
import httpx2
import openai

from serve.config import AnthropicModel, OpenAIModel
from serve.errors import DeadlineExceeded, SwitchboardError, Unavailable, UpstreamFailed
from serve.translate.vendor_errors import from_answer

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
SILENCE_S = 3600.0
"""Above every bound that the router puts on a wait; calls without a router end here."""
MAX_CONNECTIONS = 1000
KEEPALIVE_S = 30.0
RETRY_AFTER_S = 1.0
_RAW = {"X-Stainless-Raw-Response": "stream"}
"""Has the SDK hand over the answer with its body unread: its own `with_streaming_response` sets the same."""


class Answer:
    """A provider's answer with a good status, its body not yet read."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `UpstreamFailed` when it breaks off."""
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except (httpx2.TransportError, httpx2.DecodingError, aiohttp.ClientError) as error:
            logger.warning("the provider broke off: %s", type(error).__name__)
            raise UpstreamFailed("The provider broke off its answer.") from None

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `UpstreamFailed`, also when there is more of it than that."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit_bytes:
                raise UpstreamFailed("The provider's answer is too long.")
        return bytes(body)


class Provider(Protocol):
    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """Async context manager that gives an `Answer`. Raises a `SwitchboardError`."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SdkProvider:
    """Asks through a vendor's SDK; `prefix` is what that SDK's base URL holds of our paths."""

    client: openai.AsyncOpenAI | anthropic.AsyncAnthropic
    prefix: str

    @asynccontextmanager
    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Raises a `SwitchboardError` for everything that is no answer; `vendor_errors` says which."""
        response = await self._ask(path.removeprefix(self.prefix), body, headers)
        try:
            if 300 <= response.status_code < 400:
                raise from_answer(response.status_code, b"", response.headers)
            yield Answer(response)
        finally:
            await response.aclose()

    async def _ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        options: Any = {"headers": {**headers, **_RAW, "content-type": "application/json"}}
        client: Any = self.client
        try:
            answer = await client.post(path, cast_to=object, content=body, options=options)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            response = error.response
            logger.warning("the provider answered with status %d", response.status_code)
            raise from_answer(response.status_code, response.content, response.headers) from None
        except (openai.APIConnectionError, anthropic.APIConnectionError, aiohttp.ClientError) as error:
            raise _not_asked(error) from None
        raw: httpx2.Response = answer.http_response
        return raw

    async def close(self) -> None:
        await self.client.close()


def _not_asked(error: BaseException) -> SwitchboardError:
    """What kept a provider from answering, by the first cause: the SDKs call a broken connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    logger.warning("the provider could not be asked: %s", type(error).__name__)
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, OSError, httpx2.PoolTimeout)):
        if not isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)):
            return Unavailable("The provider cannot be reached.", None, "provider_unreachable", RETRY_AFTER_S)
    elif isinstance(error, (TimeoutError, httpx2.TimeoutException)):
        return DeadlineExceeded("The provider did not answer in time.")
    return UpstreamFailed("The provider broke off the connection.")


def openai_provider(config: OpenAIModel, key: str) -> SdkProvider:
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=config.base_url or "https://api.openai.com/v1",
        organization=config.organization,
        project=config.project,
        max_retries=0,
        timeout=_timeout(),
        http_client=openai.DefaultAioHttpClient(limits=_limits(), timeout=_timeout(), follow_redirects=False),
    )
    return SdkProvider(client, prefix="/v1")


def anthropic_provider(config: AnthropicModel, key: str) -> SdkProvider:
    client = anthropic.AsyncAnthropic(
        api_key=key,
        auth_token=None,
        base_url=config.base_url or "https://api.anthropic.com",
        max_retries=0,
        timeout=_timeout(),
        http_client=anthropic.DefaultAioHttpClient(limits=_limits(), timeout=_timeout(), follow_redirects=False),
    )
    return SdkProvider(client, prefix="")


def _timeout() -> httpx2.Timeout:
    return httpx2.Timeout(SILENCE_S, connect=CONNECT_S, pool=CONNECT_S)


def _limits() -> httpx2.Limits:
    return httpx2.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_S
    )
