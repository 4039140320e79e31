"""Which paths exist, what each takes, and whose API it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve.api.http import Headers
from serve.errors import MethodNotAllowed, NotFound
from serve.quoting import printable
from serve.schemas import Dialect


class Kind(StrEnum):
    """What a request asks for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RESPONSE = "response"
    MESSAGE = "message"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    MODEL = "model"
    SESSIONS = "sessions"
    SESSION = "session"
    HEALTH = "health"
    READY = "ready"
    METRICS = "metrics"
    REPLICAS = "replicas"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the HTTP surface.

    A `path` that ends in `{id}` takes one further segment, in `{id:path}` the whole rest, slashes included:
    a model's name may be `org/model:adapter@version`. `dialect` is None where the path is both vendors', or
    neither's.
    """

    path: str
    methods: tuple[str, ...]
    kind: Kind
    dialect: Dialect | None = None
    streamable: bool = False
    """Whether `stream: true` turns the answer into server-sent events."""
    forwards: bool = False
    """Whether a model answers it, rather than the gateway itself."""


@dataclass(frozen=True, slots=True)
class Match:
    """An endpoint as one request named it."""

    endpoint: Endpoint
    dialect: Dialect
    id: str | None = None


_POST = ("POST",)
_GET = ("GET", "HEAD")

ENDPOINTS = (
    Endpoint("/v1/chat/completions", _POST, Kind.CHAT, Dialect.OPENAI, streamable=True, forwards=True),
    Endpoint("/v1/completions", _POST, Kind.COMPLETION, Dialect.OPENAI, streamable=True, forwards=True),
    Endpoint("/v1/embeddings", _POST, Kind.EMBEDDING, Dialect.OPENAI, forwards=True),
    Endpoint("/v1/responses", _POST, Kind.RESPONSE, Dialect.OPENAI, streamable=True, forwards=True),
    Endpoint("/v1/messages", _POST, Kind.MESSAGE, Dialect.ANTHROPIC, streamable=True, forwards=True),
    Endpoint("/v1/messages/count_tokens", _POST, Kind.COUNT_TOKENS, Dialect.ANTHROPIC, forwards=True),
    Endpoint("/v1/models", _GET, Kind.MODELS),
    Endpoint("/v1/models/{id:path}", _GET, Kind.MODEL),
    Endpoint("/v1/sessions", _POST, Kind.SESSIONS),
    Endpoint("/v1/sessions/{id}", ("GET", "HEAD", "DELETE"), Kind.SESSION),
    Endpoint("/health", _GET, Kind.HEALTH),
    Endpoint("/ready", _GET, Kind.READY),
    Endpoint("/metrics", _GET, Kind.METRICS),
    Endpoint("/admin/replicas", _GET, Kind.REPLICAS),
)

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
_BY_PREFIX = [
    (endpoint.path.partition("{")[0], endpoint.path.endswith(":path}"), endpoint)
    for endpoint in ENDPOINTS
    if "{" in endpoint.path
]


def resolve(method: str, path: str, headers: Headers) -> Match:
    """The endpoint for a request line. `path` is percent-decoded, as `scope["path"]` is.

    Raises: NotFound, MethodNotAllowed.
    """
    endpoint, name = _find(path)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {printable(path, 100)}.")
    if method not in endpoint.methods:
        allowed = " or ".join(endpoint.methods)
        raise MethodNotAllowed(f"{endpoint.path} takes {allowed} only.", endpoint.methods)
    return Match(endpoint, dialect_of(path, headers), name)


def dialect_of(path: str, headers: Headers) -> Dialect:
    """Whose API a request speaks, and so the shape of its errors.

    The path decides where it belongs to one vendor. Elsewhere (`/v1/models`, an unknown path) it is
    Anthropic's for callers that send `anthropic-version`, as that vendor's API requires of them.
    """
    endpoint = _BY_PATH.get(path)
    if endpoint is not None and endpoint.dialect is not None:
        return endpoint.dialect
    if path.startswith("/v1/messages") or headers.get(b"anthropic-version") is not None:
        return Dialect.ANTHROPIC
    return Dialect.OPENAI


def forwards(path: str) -> bool:
    """Whether a model answers at this path, whatever the method."""
    endpoint = _BY_PATH.get(path)
    return endpoint is not None and endpoint.forwards


def _find(path: str) -> tuple[Endpoint | None, str | None]:
    if exact := _BY_PATH.get(path):
        return exact, None
    for prefix, whole_rest, endpoint in _BY_PREFIX:
        name = path[len(prefix) :]
        if path.startswith(prefix) and name and (whole_rest or "/" not in name):
            return endpoint, name
    return None, None
