import pytest

from serve.api.endpoints import ENDPOINTS, Kind, dialect_of, resolve
from serve.api.http import Headers
from serve.errors import MethodNotAllowed, NotFound
from serve.schemas import Dialect

NONE = Headers([])
ANTHROPIC = Headers([(b"anthropic-version", b"2023-06-01")])


@pytest.mark.parametrize(
    ("method", "path", "kind", "name"),
    [
        ("POST", "/v1/chat/completions", Kind.CHAT, None),
        ("POST", "/v1/completions", Kind.COMPLETION, None),
        ("POST", "/v1/embeddings", Kind.EMBEDDING, None),
        ("POST", "/v1/responses", Kind.RESPONSE, None),
        ("POST", "/v1/messages", Kind.MESSAGE, None),
        ("POST", "/v1/messages/count_tokens", Kind.COUNT_TOKENS, None),
        ("GET", "/v1/models", Kind.MODELS, None),
        ("GET", "/v1/models/org/model:support@abc", Kind.MODEL, "org/model:support@abc"),
        ("HEAD", "/v1/models/demo", Kind.MODEL, "demo"),
        ("POST", "/v1/sessions", Kind.SESSIONS, None),
        ("DELETE", "/v1/sessions/s1", Kind.SESSION, "s1"),
        ("HEAD", "/health", Kind.HEALTH, None),
        ("GET", "/ready", Kind.READY, None),
        ("GET", "/metrics", Kind.METRICS, None),
    ],
)
def test_a_request_line_finds_its_endpoint(method: str, path: str, kind: Kind, name: str | None) -> None:
    match = resolve(method, path, NONE)
    assert (match.endpoint.kind, match.id) == (kind, name)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1", "/v1/models/", "/v1/sessions/", "/v1/sessions/a/b", "/v1/chat/completions/", "/docs"],
)
def test_an_unknown_path_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        resolve("GET", path, NONE)


def test_an_unknown_path_is_not_echoed_at_length() -> None:
    with pytest.raises(NotFound) as caught:
        resolve("GET", "/\r\n" + "x" * 1_000_000, NONE)
    assert len(caught.value.message) < 130
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", ("POST",)),
        ("POST", "/v1/models", ("GET", "HEAD")),
        ("PUT", "/v1/sessions/a", ("GET", "HEAD", "DELETE")),
        ("OPTIONS", "/health", ("GET", "HEAD")),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: tuple[str, ...]) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        resolve(method, path, NONE)
    assert caught.value.allow == allow


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", NONE, Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", NONE, Dialect.ANTHROPIC),
        ("/v1/messages/batches", NONE, Dialect.ANTHROPIC),
        ("/v1/models", NONE, Dialect.OPENAI),
        ("/v1/models", ANTHROPIC, Dialect.ANTHROPIC),
        ("/v1/models/demo", ANTHROPIC, Dialect.ANTHROPIC),
        ("/nowhere", ANTHROPIC, Dialect.ANTHROPIC),
        ("/nowhere", NONE, Dialect.OPENAI),
        ("/v1/chat/completions", ANTHROPIC, Dialect.OPENAI),
    ],
)
def test_the_path_decides_whose_api_it_is_and_else_the_header(path: str, headers: Headers, dialect: Dialect) -> None:
    assert dialect_of(path, headers) is dialect


def test_what_streams_is_answered_by_a_model() -> None:
    assert {endpoint.path for endpoint in ENDPOINTS if endpoint.streamable} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
    }
    assert all(endpoint.forwards for endpoint in ENDPOINTS if endpoint.streamable)
