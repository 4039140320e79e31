"""The list of models, in OpenAI's shape and in Anthropic's.

Shapes: `openai.types.Model` and `anthropic.types.ModelInfo`; Anthropic's paging as in
https://docs.claude.com/en/api/models-list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from serve.errors import InvalidRequest, NotFound
from serve.schemas import Dialect, Json

_DEFAULT_PAGE = 20
_LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A name that a client may ask for: a model, an adapter of one, or a bot.

    `created` is in seconds since the epoch. `parent` is the model that an adapter or a bot stands on; `kind`
    is `model`, `adapter` or `bot`.
    """

    id: str
    created: int
    owned_by: str
    parent: str | None = None
    kind: str = "model"
    unavailable: str | None = None
    """Why it cannot be asked, if it cannot."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of the list an Anthropic client asks for."""

    limit: int = _DEFAULT_PAGE
    before_id: str | None = None
    after_id: str | None = None

    @classmethod
    def parse(cls, query: bytes) -> Page:
        """From an ASGI `query_string`. Unknown parameters are left alone.

        Raises: InvalidRequest.
        """
        try:
            values = dict(parse_qsl(query.decode("ascii"), max_num_fields=50))
        except ValueError as error:  # not ASCII, or more fields than any client sends
            raise InvalidRequest("The query string cannot be read.") from error
        before, after = values.get("before_id"), values.get("after_id")
        if before is not None and after is not None:
            raise InvalidRequest("before_id and after_id exclude each other.", param="before_id")
        limit = values.get("limit", str(_DEFAULT_PAGE))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= _LARGEST_PAGE):
            raise InvalidRequest(f"limit must be between 1 and {_LARGEST_PAGE}.", param="limit")
        return cls(int(limit), before, after)


def list_models(entries: Sequence[ModelEntry], dialect: Dialect, query: bytes = b"") -> Json:
    """The body of `GET /v1/models`.

    Raises: InvalidRequest where an Anthropic client pages wrongly.
    """
    if dialect is Dialect.OPENAI:
        return {"object": "list", "data": [_openai(entry) for entry in entries]}
    chosen, has_more = _page(entries, Page.parse(query))
    return {
        "data": [_anthropic(entry) for entry in chosen],
        "has_more": has_more,
        "first_id": chosen[0].id if chosen else None,
        "last_id": chosen[-1].id if chosen else None,
    }


def one_model(entries: Sequence[ModelEntry], name: str, dialect: Dialect) -> Json:
    """The body of `GET /v1/models/{name}`.

    Raises: NotFound.
    """
    for entry in entries:
        if entry.id == name:
            return _openai(entry) if dialect is Dialect.OPENAI else _anthropic(entry)
    raise NotFound("The model does not exist.", param="model", code="model_not_found")


def _page(entries: Sequence[ModelEntry], page: Page) -> tuple[Sequence[ModelEntry], bool]:
    """The asked-for entries, and whether more lie beyond them in the same direction."""
    if page.before_id is not None:
        end = _position(entries, page.before_id, "before_id")
        start = max(0, end - page.limit)
        return entries[start:end], start > 0
    start = 0 if page.after_id is None else _position(entries, page.after_id, "after_id") + 1
    end = start + page.limit
    return entries[start:end], end < len(entries)


def _position(entries: Sequence[ModelEntry], name: str, param: str) -> int:
    for position, entry in enumerate(entries):
        if entry.id == name:
            return position
    raise InvalidRequest(f"{param} names no model in the list.", param=param)


def _openai(entry: ModelEntry) -> Json:
    card: Json = {"id": entry.id, "object": "model", "created": entry.created, "owned_by": entry.owned_by}
    if entry.parent is not None:
        card |= {"parent": entry.parent, "kind": entry.kind}
    if entry.unavailable is not None:
        card["unavailable"] = entry.unavailable
    return card


def _anthropic(entry: ModelEntry) -> Json:
    created = datetime.fromtimestamp(entry.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    card: Json = {
        "type": "model",
        "id": entry.id,
        "display_name": entry.id,
        "created_at": created,
        "lifecycle": "active",
    }
    return card | ({"unavailable": entry.unavailable} if entry.unavailable is not None else {})
