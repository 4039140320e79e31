"""A client without an SDK's opinions: sees statuses, headers and bytes as they come."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What a chat completion says."""
        assert self.status == 200, self.body
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def replica(self) -> str:
        """The id of the replica that served it."""
        return replica_of(self.headers)

    @property
    def adapter(self) -> str:
        return self.headers["x-switchboard-adapter"]


def replica_of(headers: Mapping[str, str]) -> str:
    return headers["x-switchboard-served-by"].partition("replica=")[2]


@dataclass(slots=True)
class Stream:
    """A streamed answer, read event by event: (its name or None, its data as JSON or `[DONE]`)."""

    response: aiohttp.ClientResponse

    @property
    def replica(self) -> str:
        return replica_of(self.response.headers)

    async def event(self) -> tuple[str | None, Any] | None:
        """The next one; None at the end of the stream."""
        name = None
        while line := await self.response.content.readline():
            field, _, value = line.decode().rstrip("\r\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return name, value if value == "[DONE]" else json.loads(value)
        return None

    async def rest(self) -> list[tuple[str | None, Any]]:
        events = []
        while (event := await self.event()) is not None:
            events.append(event)
        return events


class Metrics:
    """One reading of `/metrics`, all replicas' together."""

    def __init__(self, page: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def samples(self, name: str, **labels: str) -> list[Sample]:
        return [s for s in self._samples if s.name == name and labels.items() <= s.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self.samples(name, **labels))


class Client:
    """Calls with a key, unless headers say otherwise."""

    def __init__(self, base_url: str, key: str, session: aiohttp.ClientSession) -> None:
        self._base_url = base_url
        self._key = key
        self._session = session

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request with a JSON body, or with bytes as they are."""
        async with self._session.request(
            method, self._base_url + path, data=_payload(body), headers=self._headers(headers)
        ) as response:
            lower = {key.lower(): value for key, value in response.headers.items()}
            return Answer(response.status, lower, await response.read())

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.ask("POST", path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.ask("GET", path, None, headers)

    async def chat(
        self, model: str, question: str, *, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Answer:
        return await self.post(CHAT, chat_body(model, question, **params), headers)

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Stream]:
        async with self._session.post(
            self._base_url + path, data=_payload(body | {"stream": True}), headers=self._headers(headers)
        ) as response:
            assert response.status == 200, await response.read()
            yield Stream(response)

    async def metrics(self) -> Metrics:
        answer = await self.get("/metrics")
        assert answer.status == 200, answer.body
        return Metrics(answer.body.decode())

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}", "content-type": "application/json"} | dict(extra or {})


def chat_body(model: str, question: str, **params: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], **params}


def _payload(body: object) -> io.BytesIO | None:
    if body is None:
        return None
    # aiohttp takes large bytes from a file only, so as not to block its loop.
    return io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())


@asynccontextmanager
async def connected(base_url: str, key: str) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(base_url, key, session)
