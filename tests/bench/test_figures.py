from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Answer
from bench.figures import (
    BARE,
    SWITCHBOARD,
    Figures,
    Round,
    Spread,
    compare,
    cpu_ms_per_request,
    faults,
    figures,
    pairs_at,
    quantile,
    spread,
)

VALUES = st.lists(st.floats(0, 1e6), min_size=1)


def answer(sent: float, *arrivals: float, tokens: int = 3, fault: str = "") -> Answer:
    return Answer(sent, arrivals, arrivals[-1] if arrivals else sent, tokens, fault)


def turn(number: int, server: str, rate: float, streams: int = 1, cpu: float = 0.1) -> Round:
    values = Figures(10, 0, 1.0, rate, 10.0, rate / 100, 3.0, 1.0, 2.0)
    return Round(streams, number, server, values, {}, {"client": cpu})


def test_rates_go_by_the_round_from_its_first_request_to_its_last_answer() -> None:
    got = figures([answer(10.0, 10.1, 10.2, 10.3), answer(10.5, 11.0, 11.5, 12.0)], tokens=3)
    assert got.seconds == pytest.approx(2.0)
    assert got.tokens_per_s == pytest.approx(3.0)
    assert got.requests_per_s == pytest.approx(1.0)


def test_time_to_first_token_and_gaps_are_in_milliseconds() -> None:
    got = figures([answer(1.0, 1.010, 1.012, 1.016)], tokens=3)
    assert got.ttft_p50_ms == pytest.approx(10.0)
    assert got.inter_token_p50_ms == pytest.approx(3.0)
    assert got.inter_token_p99_ms == pytest.approx(3.98)


def test_an_answer_that_is_not_as_asked_is_an_error_and_counts_for_nothing_else() -> None:
    answers = [
        answer(0.0, 0.1, 0.2, 1.0),
        answer(0.0, 0.9, tokens=2),
        answer(0.0, fault="status 429"),
        answer(0.0, fault="status 429"),
        answer(0.0),
    ]
    got = figures(answers, tokens=3)
    assert (got.requests, got.errors) == (5, 4)
    assert got.tokens_per_s == pytest.approx(3.0)
    assert got.ttft_p99_ms == pytest.approx(100.0)
    assert faults(answers, tokens=3) == {"2 tokens instead of 3": 1, "status 429": 2, "no token": 1}


def test_a_round_of_errors_alone_has_figures_without_a_value() -> None:
    got = figures([answer(0.0, 1.0, fault="status 500")], tokens=3)
    assert got.tokens_per_s == 0
    assert math.isnan(got.ttft_p50_ms)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.99, 3.97), (1.0, 4.0)])
def test_a_quantile_lies_between_its_neighbours_in_proportion(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)


@given(VALUES)
def test_quantiles_rise_from_the_least_value_to_the_greatest(values: list[float]) -> None:
    shares = [quantile(values, share / 10) for share in range(11)]
    assert (shares[0], shares[-1]) == (min(values), max(values))
    assert all(below <= above or math.isclose(below, above) for below, above in pairwise(shares))


def test_a_ratio_is_taken_in_each_round_and_not_between_medians() -> None:
    # The machine was twice as fast in the second round; the servers' ratio was 0.9, 1.0 and 0.8.
    rates = [(100.0, 90.0), (200.0, 200.0), (100.0, 80.0)]
    rounds = [
        turn(number, name, rate)
        for number, pair in enumerate(rates, 1)
        for name, rate in zip((BARE, SWITCHBOARD), pair, strict=True)
    ]
    got = next(one for one in compare(rounds) if one.metric == "tokens_per_s")
    assert (got.bare, got.switchboard) == (100.0, 90.0)
    assert got.ratio.median == pytest.approx(0.9)
    assert (got.ratio.low, got.ratio.high) == pytest.approx((0.8, 1.0))
    assert got.added.median == pytest.approx(-10.0)


def test_a_round_without_a_value_is_left_out_of_the_comparison() -> None:
    rates = [(0.0, 90.0), (100.0, 95.0), (math.nan, 80.0)]
    rounds = [
        turn(number, name, rate)
        for number, pair in enumerate(rates, 1)
        for name, rate in zip((BARE, SWITCHBOARD), pair, strict=True)
    ]
    ratio = next(one.ratio for one in compare(rounds) if one.metric == "tokens_per_s")
    assert ratio == Spread(0.95, 0.95, 0.95)
    assert math.isnan(spread([math.nan]).median)


def test_turns_are_paired_by_round_whoever_was_first() -> None:
    rounds = [turn(1, BARE, 1), turn(1, SWITCHBOARD, 2), turn(2, SWITCHBOARD, 4), turn(2, BARE, 3)]
    pairs = pairs_at([*rounds, turn(1, BARE, 9, streams=8)], streams=1)
    assert [(a.figures.tokens_per_s, b.figures.tokens_per_s) for a, b in pairs] == [(1, 2), (3, 4)]


def test_cpu_time_is_shared_out_among_the_requests() -> None:
    rounds = [turn(number, BARE, 1, cpu=cpu) for number, cpu in enumerate((0.1, 0.3, 0.2), 1)]
    assert cpu_ms_per_request(rounds, 1, BARE) == pytest.approx({"client": 20.0})
