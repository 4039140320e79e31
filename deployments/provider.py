"""A hosted provider as a manager asks it: one POST, answered by a status, headers and a body that may stream.

The vendors' SDKs say how their vendor is addressed: the base URL, and the headers for credentials, version and origin,
which change from one release to the next. The bytes go over our own connections: what the SDKs do between a request
and its socket costs five times what aiohttp does (`docs/benchmarks.md`), and nothing of it is wanted here, for the
router decides what is asked again and the answer passes unparsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anthropic
import openai
from yarl import URL

from serve.config import AnthropicModel, OpenAIModel
from serve.errors import DeadlineExceeded, SwitchboardError, Unavailable, UpstreamFailed
from serve.translate.vendor_errors import from_answer

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
SILENCE_S = 3600.0
"""Above every bound that the router puts on a wait; calls without a router end here."""
KEEPALIVE_S = 30.0
DRAIN_S = 0.5
"""A provider whose answer has come, and whose HTTP body does not end within this time, loses its connection. It is
short: meanwhile the request counts as in flight."""
DRAIN_BYTES = 4096
RETRY_AFTER_S = 1.0
MAX_ERROR_BYTES = 1 << 20
"""Of an error's body; what is longer says nothing."""


class Answer:
    """A provider's answer with a good status, its body not yet read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.content_type = response.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `UpstreamFailed` when it breaks off."""
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
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

    async def drain(self) -> None:
        """Read on to the body's own end, behind the answer's: a connection can be used again only from there."""
        content, room = self._response.content, DRAIN_BYTES
        if content.at_eof():
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while room > 0 and (chunk := await content.readany()):
                    room -= len(chunk)
        except (aiohttp.ClientError, OSError) as error:
            logger.info("a connection to the provider is given up: %s", type(error).__name__)


class Provider:
    """A pool of connections to one provider, told `headers` each time. One must come about within `connect_s`.

    It has our paths below `base_url`, which holds their `prefix` already. Proxies come from the environment
    (`HTTPS_PROXY`, `NO_PROXY`), as the SDKs have it. To be made in a running loop.
    """

    def __init__(self, base_url: str, prefix: str, headers: Mapping[str, str], connect_s: float = CONNECT_S) -> None:
        self._base_url = base_url.rstrip("/")
        self._prefix = prefix
        self._proxy = _proxy_for(URL(base_url))
        self._session = aiohttp.ClientSession(
            headers=headers,
            # No bound of its own: who waited here would seem to wait for the provider. The manager has one for all
            # requests, `limits.max_in_flight`.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=SILENCE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @asynccontextmanager
    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Raises a `SwitchboardError` for everything that is no answer; `vendor_errors` says which."""
        try:
            response = await self._session.post(
                self._base_url + path.removeprefix(self._prefix),
                data=body,
                headers=headers,
                proxy=self._proxy,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            logger.warning("the provider could not be asked: %s", type(error).__name__)
            raise _not_asked(error) from None
        async with response:
            if response.status >= 300:
                logger.warning("the provider answered with status %d", response.status)
                raise from_answer(response.status, await _error_body(response), response.headers)
            yield Answer(response)

    async def close(self) -> None:
        await self._session.close()


async def openai_provider(config: OpenAIModel, key: str) -> Provider:
    async with openai.AsyncOpenAI(
        api_key=key,
        base_url=config.base_url or "https://api.openai.com/v1",
        organization=config.organization,
        project=config.project,
    ) as client:
        return Provider(str(client.base_url), "/v1", _headers(client), config.timeouts.provider_connect_s)


async def anthropic_provider(config: AnthropicModel, key: str) -> Provider:
    async with anthropic.AsyncAnthropic(
        api_key=key, auth_token=None, base_url=config.base_url or "https://api.anthropic.com"
    ) as client:
        return Provider(str(client.base_url), "", _headers(client), config.timeouts.provider_connect_s)


def _headers(client: openai.AsyncOpenAI | anthropic.AsyncAnthropic) -> dict[str, str]:
    headers = {**client.default_headers, **client.auth_headers}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _proxy_for(url: URL) -> str | None:
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of it as arrives: the status alone says enough."""
    body = bytearray()
    try:
        while len(body) < MAX_ERROR_BYTES and (chunk := await response.content.readany()):
            body += chunk
    except (aiohttp.ClientError, OSError) as error:
        logger.warning("the provider broke off its error: %s", type(error).__name__)
    return bytes(body)


def _not_asked(error: aiohttp.ClientError | OSError) -> SwitchboardError:
    """What kept a provider from answering."""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Unavailable("The provider cannot be reached.", None, "provider_unreachable", RETRY_AFTER_S)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("The provider did not answer in time.")
    return UpstreamFailed("The provider broke off the connection.")
