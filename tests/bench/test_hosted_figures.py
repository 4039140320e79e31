from __future__ import annotations

import math

import pytest

from bench.client import Answer
from bench.figures import SWITCHBOARD
from bench.hosted_figures import (
    ADDED,
    AIMS,
    DIRECT,
    LITELLM,
    PORTKEY,
    Scene,
    contestants,
    hosted_figures,
    per_round,
    ratio,
    values,
)
from tests.bench.hosted_turns import FAST, RATES, turn, turns

ONE = Scene(1, streamed=False)


def answer(sent: float, ended: float, fault: str = "") -> Answer:
    return Answer(sent, (), ended, 0, fault)


def test_rates_and_latencies_are_of_good_answers_alone() -> None:
    answers = [answer(1.0, 1.1), answer(1.0, 1.3), answer(1.5, 3.0, "status 500")]
    got = hosted_figures(answers, cpu_s=0.6, rss_mib=50.0)
    assert (got.requests, got.errors) == (3, 1)
    assert got.seconds == pytest.approx(2.0)
    assert got.per_s == pytest.approx(1.0)
    assert (got.p50_ms, got.p99_ms) == pytest.approx((200.0, 298.0))
    assert (got.cpu_ms, got.rss_mib) == pytest.approx((200.0, 50.0))


def test_a_turn_of_errors_alone_has_no_latency() -> None:
    got = hosted_figures([answer(0.0, 1.0, "no")], cpu_s=0.0, rss_mib=0.0)
    assert got.per_s == 0
    assert math.isnan(got.p50_ms)


def test_what_a_gateway_adds_is_taken_in_each_round() -> None:
    # The machine was slower in the second round.
    rounds = [
        turn(ONE, number, name, 10.0, p50)
        for number, (direct, ours) in enumerate([(0.2, 1.0), (0.5, 1.5)], 1)
        for name, p50 in ((DIRECT, direct), (SWITCHBOARD, ours))
    ]
    assert per_round(rounds, ONE, SWITCHBOARD, ADDED) == pytest.approx({1: 0.8, 2: 1.0})
    assert math.isnan(values(rounds, ONE, DIRECT, ADDED).median)


def test_a_ratio_is_taken_in_each_round() -> None:
    rounds = [
        turn(ONE, number, name, rate)
        for number, (theirs, ours) in enumerate([(10.0, 20.0), (20.0, 60.0), (10.0, 10.0)], 1)
        for name, rate in ((PORTKEY, theirs), (SWITCHBOARD, ours))
    ]
    got = ratio(rounds, ONE, "per_s", PORTKEY)
    assert (got.median, got.low, got.high) == pytest.approx((2.0, 1.0, 3.0))


def test_a_peer_without_a_good_answer_has_no_ratio() -> None:
    zero = [turn(ONE, 1, SWITCHBOARD, 10.0)]
    assert math.isnan(ratio(zero, ONE, "per_s", LITELLM).median)


def test_contestants_have_one_order_whoever_was_first() -> None:
    assert contestants(turns()[::-1]) == [DIRECT, SWITCHBOARD, LITELLM, PORTKEY]


@pytest.mark.parametrize(
    ("rates", "added_ms", "met"),
    [(RATES, 1.1, [True, True, False, True]), (FAST, 1.3, [True, True, True, False])],
)
def test_each_aim_is_judged_by_itself(rates: dict[str, float], added_ms: float, met: list[bool]) -> None:
    rounds = turns(rates, added_ms)
    assert [aim.is_met(aim.got(rounds)) for aim in AIMS] == met


def test_an_aim_beside_a_peer_that_was_left_out_is_not_measured() -> None:
    rounds = [one for one in turns() if one.contestant != LITELLM]
    assert [math.isnan(aim.got(rounds).median) for aim in AIMS] == [True, False, True, False]
