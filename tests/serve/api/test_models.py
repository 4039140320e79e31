from datetime import UTC, datetime

import anthropic.types
import openai.types
import pytest

from serve.api.models import ModelEntry, Page, list_models, one_model
from serve.errors import InvalidRequest, NotFound
from serve.schemas import Dialect

ENTRIES = [
    ModelEntry("demo", 1_700_000_000, "switchboard"),
    ModelEntry("demo:sales", 1_700_000_001, "switchboard", parent="demo", kind="adapter"),
    ModelEntry("org/other", 1_700_000_002, "switchboard"),
    ModelEntry("support", 1_700_000_003, "switchboard", parent="demo", kind="bot"),
]


def ids(query: bytes) -> tuple[list[str], bool]:
    body = list_models(ENTRIES, Dialect.ANTHROPIC, query)
    return [card["id"] for card in body["data"]], body["has_more"]


def test_openais_list() -> None:
    body = list_models(ENTRIES, Dialect.OPENAI)
    assert body["object"] == "list"
    cards = [openai.types.Model.model_validate(card, strict=True) for card in body["data"]]
    assert [card.id for card in cards] == ["demo", "demo:sales", "org/other", "support"]
    assert body["data"][1]["parent"] == "demo"


def test_anthropics_list() -> None:
    body = list_models(ENTRIES, Dialect.ANTHROPIC)
    cards = [anthropic.types.ModelInfo.model_validate(card) for card in body["data"]]
    assert cards[0].created_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("demo", "support", False)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"limit=2", (["demo", "demo:sales"], True)),
        (b"limit=2&after_id=demo%3Asales", (["org/other", "support"], False)),
        (b"limit=1&after_id=demo", (["demo:sales"], True)),
        (b"limit=2&before_id=support", (["demo:sales", "org/other"], True)),
        (b"limit=9&before_id=org/other", (["demo", "demo:sales"], False)),
        (b"after_id=support&beta=true", ([], False)),
    ],
)
def test_anthropics_paging(query: bytes, expected: tuple[list[str], bool]) -> None:
    assert ids(query) == expected


def test_an_empty_page_has_no_first_and_last() -> None:
    body = list_models([], Dialect.ANTHROPIC)
    assert body == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=-1", "limit"),
        (b"limit=many", "limit"),
        (b"limit=" + b"9" * 5000, "limit"),
        (b"after_id=nobody", "after_id"),
        (b"before_id=nobody", "before_id"),
        (b"before_id=a&after_id=b", "before_id"),
    ],
)
def test_wrong_paging_names_the_parameter(query: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        list_models(ENTRIES, Dialect.ANTHROPIC, query)
    assert caught.value.param == param


@pytest.mark.parametrize("query", [b"\xff", b"a=1&" * 100])
def test_an_unreadable_query_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Page.parse(query)


def test_one_model_in_both_shapes() -> None:
    card = openai.types.Model.model_validate(one_model(ENTRIES, "org/other", Dialect.OPENAI), strict=True)
    assert card.id == "org/other"
    info = anthropic.types.ModelInfo.model_validate(one_model(ENTRIES, "support", Dialect.ANTHROPIC))
    assert info.lifecycle == "active"


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        one_model(ENTRIES, "x" * 1_000_000, Dialect.OPENAI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert len(caught.value.message) < 100
