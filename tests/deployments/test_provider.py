"""How a provider is addressed. What it may answer is in `tests/hosted`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments import provider as asking
from deployments.provider import Provider, anthropic_provider, openai_provider
from serve.config import AnthropicModel, OpenAIModel
from serve.errors import TooManyRequests, Unavailable
from tests.fakes.http_server import PATIENCE_S

KEY = "sk-a-key-of-the-provider"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Listener:
    """Answers each request with `says`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.says = OK
        self.heads: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.says)
        await writer.drain()
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    one = Listener()
    server = await asyncio.start_server(one.handle, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(PATIENCE_S):
        yield one


async def ask(provider: Provider, path: str) -> bytes:
    try:
        async with provider.post(path, b"{}", {}) as answer:
            return await answer.read(100)
    finally:
        await provider.close()


def openai_model(**keys: object) -> OpenAIModel:
    return OpenAIModel.model_validate(
        {"name": "gpt", "provider": "openai", "model_id": "gpt-x", "api_key": KEY, **keys}
    )


def headers(head: str) -> dict[str, str]:
    lines = head.split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize("base", ["/openai/v1", "/openai/v1/", "/api/paas/v4"])
async def test_paths_are_below_the_base_url(listener: Listener, base: str) -> None:
    provider = await openai_provider(openai_model(base_url=listener.url + base), KEY)
    assert await ask(provider, "/v1/chat/completions") == b"{}"
    assert listener.heads[0].startswith(f"POST {base.rstrip('/')}/chat/completions HTTP/1.1\r\n")


async def test_openai_is_told_what_its_sdk_would_tell(listener: Listener) -> None:
    model = openai_model(base_url=f"{listener.url}/v1", organization="org-1", project="proj-1")
    await ask(await openai_provider(model, KEY), "/v1/chat/completions")
    told = headers(listener.heads[0])
    assert told["authorization"] == f"Bearer {KEY}"
    assert (told["openai-organization"], told["openai-project"]) == ("org-1", "proj-1")
    assert told["content-type"] == "application/json"
    assert told["user-agent"].startswith("AsyncOpenAI/")


async def test_anthropic_is_told_what_its_sdk_would_tell(listener: Listener) -> None:
    model = AnthropicModel.model_validate(
        {"name": "c", "provider": "anthropic", "model_id": "c-x", "api_key": KEY, "base_url": listener.url}
    )
    await ask(await anthropic_provider(model, KEY), "/v1/messages")
    assert listener.heads[0].startswith("POST /v1/messages HTTP/1.1\r\n")
    told = headers(listener.heads[0])
    assert KEY in told.get("x-api-key", "") + told.get("authorization", "")
    assert told["anthropic-version"]


async def test_the_environment_s_proxy_is_asked(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", listener.url)
    monkeypatch.setenv("no_proxy", "")
    provider = await openai_provider(openai_model(base_url="http://provider.example/v1"), KEY)
    assert await ask(provider, "/v1/embeddings") == b"{}"
    assert listener.heads[0].startswith("POST http://provider.example/v1/embeddings HTTP/1.1\r\n")


async def test_but_not_for_hosts_that_are_to_be_asked_directly(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    provider = await openai_provider(openai_model(base_url=f"{listener.url}/v1"), KEY)
    assert await ask(provider, "/v1/embeddings") == b"{}"


async def test_of_a_long_error_the_status_is_enough(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_ERROR_BYTES", 1000)
    listener.says = b"HTTP/1.1 429 Slow Down\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 2000
    provider = await openai_provider(openai_model(base_url=f"{listener.url}/v1"), KEY)
    with pytest.raises(TooManyRequests):
        await ask(provider, "/v1/embeddings")


async def test_who_is_slow_to_connect_cannot_be_reached(listener: Listener) -> None:
    # It waits for a request in the clear, and we for its part of TLS.
    base_url = listener.url.replace("http:", "https:")
    provider = await openai_provider(openai_model(base_url=base_url, timeouts={"provider_connect_s": 0.01}), KEY)
    with pytest.raises(Unavailable):
        await ask(provider, "/v1/embeddings")


async def test_requests_do_not_wait_for_each_others_connections(listener: Listener) -> None:
    provider = await openai_provider(openai_model(base_url=listener.url), KEY)
    connector = provider._session.connector
    await provider.close()
    assert connector is not None
    assert connector.limit == connector.limit_per_host == 0
