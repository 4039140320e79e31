from __future__ import annotations

import pytest

from deployments.default_params import completed, merged
from serve.api.endpoints import Kind
from serve.schemas import Json

DEFAULTS: Json = {"temperature": 0.2, "max_tokens": 64}


@pytest.mark.parametrize(
    ("kind", "configured", "name"),
    [
        (Kind.CHAT, "max_tokens", "max_tokens"),
        (Kind.CHAT, "max_completion_tokens", "max_completion_tokens"),
        (Kind.CHAT, "max_output_tokens", "max_tokens"),
        *(
            (kind, configured, name)
            for kind, name in (
                (Kind.COMPLETION, "max_tokens"),
                (Kind.MESSAGE, "max_tokens"),
                (Kind.RESPONSE, "max_output_tokens"),
            )
            for configured in ("max_tokens", "max_completion_tokens", "max_output_tokens")
        ),
    ],
)
def test_the_length_keeps_its_name_where_the_endpoint_has_that(kind: Kind, configured: str, name: str) -> None:
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


def test_a_length_that_a_chat_has_no_name_for_gets_the_providers() -> None:
    assert completed(Kind.CHAT, {}, {"max_output_tokens": 64}, chat_length="max_completion_tokens") == {
        "max_completion_tokens": 64
    }


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.RESPONSE])
@pytest.mark.parametrize("bots", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("models", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_a_bots_length_comes_before_its_models_by_whatever_name(kind: Kind, bots: str, models: str) -> None:
    assert list(completed(kind, {}, merged({bots: 20}, {models: 500})).values()) == [20]


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.RESPONSE])
@pytest.mark.parametrize(
    ("bots", "models"),
    [
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "high"}}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "high"}),
    ],
)
def test_a_bots_effort_comes_before_its_models_by_whatever_name(kind: Kind, bots: Json, models: Json) -> None:
    given = completed(kind, {}, merged(bots, models))
    assert given in ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}})


@pytest.mark.parametrize("configured", [{"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}])
@pytest.mark.parametrize(
    ("kind", "sent"),
    [(Kind.CHAT, {"reasoning_effort": "low"}), (Kind.RESPONSE, {"reasoning": {"effort": "low"}})],
)
def test_the_effort_goes_by_each_endpoints_own_name(kind: Kind, sent: Json, configured: Json) -> None:
    assert completed(kind, {}, configured) == sent
    assert completed(kind, {name: None for name in sent}, configured) == dict.fromkeys(sent)


@pytest.mark.parametrize("said", [{"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}])
@pytest.mark.parametrize("configured", [{"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}])
@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.RESPONSE])
def test_an_effort_that_the_request_names_is_not_contradicted(kind: Kind, said: Json, configured: Json) -> None:
    assert completed(kind, said, configured) == said


def test_what_there_is_of_reasoning_beside_the_effort_is_kept() -> None:
    more = {"reasoning": {"effort": "high", "exclude": True}}
    assert completed(Kind.CHAT, {}, more) == more
    both = {"reasoning_effort": "high", "reasoning": {"summary": "auto"}}
    assert completed(Kind.RESPONSE, {}, both) == {"reasoning": {"effort": "high", "summary": "auto"}}
    assert completed(Kind.RESPONSE, {}, {"reasoning": "no object"}) == {"reasoning": "no object"}


@pytest.mark.parametrize("stop", ["END", ["END"]])
def test_what_ends_an_answer_goes_by_each_endpoints_own_name(stop: str | list[str]) -> None:
    assert completed(Kind.CHAT, {}, {"stop": stop}) == {"stop": stop}
    assert completed(Kind.MESSAGE, {}, {"stop": stop}) == {"stop_sequences": ["END"]}


def test_what_an_endpoint_has_no_field_for_is_left_out_unless_the_request_says_it() -> None:
    row = {"frequency_penalty": 0.5, "reasoning_effort": "low", "top_k": 5}
    missing = {"frequency_penalty", "reasoning_effort"}
    assert completed(Kind.MESSAGE, {}, row, missing=missing) == {"top_k": 5}
    assert completed(Kind.RESPONSE, {}, row, missing=missing) == {"top_k": 5, "reasoning": {"effort": "low"}}
    assert completed(Kind.CHAT, {"frequency_penalty": 1}, row, missing=missing) == {"top_k": 5, "frequency_penalty": 1}
