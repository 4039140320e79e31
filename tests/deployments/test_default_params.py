from __future__ import annotations

import pytest

from deployments.default_params import completed
from serve.api.endpoints import Kind
from serve.schemas import Json

DEFAULTS: Json = {"temperature": 0.2, "max_tokens": 64}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind.CHAT, "max_tokens"),
        (Kind.COMPLETION, "max_tokens"),
        (Kind.MESSAGE, "max_tokens"),
        (Kind.RESPONSE, "max_output_tokens"),
    ],
)
@pytest.mark.parametrize("configured", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_each_endpoint_has_its_own_name_for_the_length(kind: Kind, name: str, configured: str) -> None:
    assert completed(kind, {"model": "demo"}, {"temperature": 0.2, configured: 64}) == {
        "model": "demo",
        "temperature": 0.2,
        name: 64,
    }


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.COUNT_TOKENS])
def test_where_nothing_is_generated_nothing_is_filled_in(kind: Kind) -> None:
    assert completed(kind, {"input": "x"}, DEFAULTS) == {"input": "x"}


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.RESPONSE])
@pytest.mark.parametrize("said", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_what_the_request_says_stands(kind: Kind, said: str) -> None:
    request = {said: 5, "temperature": None}
    assert completed(kind, request, DEFAULTS) == request


def test_neither_side_is_changed() -> None:
    request: Json = {"model": "demo"}
    completed(Kind.CHAT, request, DEFAULTS)
    assert request == {"model": "demo"}
    assert DEFAULTS == {"temperature": 0.2, "max_tokens": 64}
