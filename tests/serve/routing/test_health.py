from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.health import NEWS_S, BreakerPolicy, Breakers, Outage

POLICY = BreakerPolicy(failures=3, open_s=10.0, max_open_s=60.0)
JUST_NOW = math.inf
"""When a request began that began after everything else."""


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock)


def seconds(breakers: Breakers) -> dict[str, float]:
    return {model: outage.seconds for model, outage in breakers.outages().items()}


def fail(breakers: Breakers, times: int = POLICY.failures) -> None:
    for _ in range(times):
        breakers.failed("demo", JUST_NOW, POLICY)


def test_a_model_of_which_nothing_is_known_is_asked(breakers: Breakers) -> None:
    assert breakers.admits("demo")
    assert breakers.may_admit("demo")
    assert breakers.states() == {}
    assert seconds(breakers) == {}


def test_what_goes_well_or_says_nothing_is_not_kept(breakers: Breakers) -> None:
    breakers.succeeded("demo", JUST_NOW)
    breakers.said_nothing("demo", JUST_NOW)
    assert breakers.states() == {}


@pytest.mark.parametrize(("failures", "known"), [(1, "closed"), (2, "closed"), (3, "open")])
def test_so_many_failures_in_a_row_open_it(breakers: Breakers, failures: int, known: str) -> None:
    fail(breakers, failures)
    assert breakers.states() == {"demo": known}
    assert breakers.admits("demo") is (known == "closed")


def test_a_success_between_them_starts_the_row_anew(breakers: Breakers) -> None:
    fail(breakers, 2)
    breakers.succeeded("demo", JUST_NOW)
    fail(breakers, 2)
    assert breakers.states() == {"demo": "closed"}


def test_what_says_nothing_does_not_break_the_row(breakers: Breakers) -> None:
    fail(breakers, 2)
    breakers.said_nothing("demo", JUST_NOW)
    fail(breakers, 1)
    assert breakers.states() == {"demo": "open"}


def test_each_model_has_its_own(breakers: Breakers) -> None:
    fail(breakers)
    breakers.failed("other", JUST_NOW, POLICY)
    assert breakers.states() == {"demo": "open", "other": "closed"}
    assert breakers.admits("other")


@pytest.mark.parametrize(
    ("later", "known", "may"), [(0.0, "open", False), (9.9, "open", False), (10.0, "half-open", True)]
)
def test_it_is_left_out_until_its_time_is_over(
    breakers: Breakers, clock: Clock, later: float, known: str, may: bool
) -> None:
    fail(breakers)
    clock.now += later
    assert breakers.states() == {"demo": known}
    assert breakers.may_admit("demo") is may
    assert breakers.admits("demo") is may


def test_half_open_it_admits_one_request_alone(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    assert [breakers.admits("demo") for _ in range(3)] == [True, False, False]
    assert breakers.states() == {"demo": "half-open"}


def test_to_ask_whether_it_may_be_admitted_takes_nobodys_turn(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    assert breakers.may_admit("demo")
    assert breakers.may_admit("demo")
    assert breakers.admits("demo")


def test_a_trial_that_goes_well_closes_it(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.succeeded("demo", JUST_NOW)
    assert breakers.states() == {"demo": "closed"}
    assert all(breakers.admits("demo") for _ in range(3))


def test_a_trial_that_says_nothing_leaves_the_turn_to_the_next(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.said_nothing("demo", JUST_NOW)
    assert breakers.states() == {"demo": "half-open"}
    assert [breakers.admits("demo") for _ in range(2)] == [True, False]


def failed_trial(breakers: Breakers, clock: Clock) -> float:
    """For how long it is left out after a trial that failed."""
    clock.now += seconds(breakers)["demo"]
    assert breakers.admits("demo")
    breakers.failed("demo", JUST_NOW, POLICY)
    return seconds(breakers)["demo"]


def test_each_failed_trial_doubles_the_time_up_to_the_longest(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    assert [failed_trial(breakers, clock) for _ in range(4)] == [20.0, 40.0, 60.0, 60.0]


def test_after_a_success_the_time_is_the_first_one_again(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    failed_trial(breakers, clock)
    clock.now += 20
    breakers.admits("demo")
    breakers.succeeded("demo", JUST_NOW)
    fail(breakers)
    assert seconds(breakers) == {"demo": 10.0}


def test_requests_that_began_before_it_opened_are_no_news(breakers: Breakers) -> None:
    fail(breakers, 20)
    assert seconds(breakers) == {"demo": 10.0}
    breakers.succeeded("demo", JUST_NOW)
    assert seconds(breakers) == {"demo": 10.0}


def test_one_that_began_before_it_opened_is_not_taken_for_the_trial(breakers: Breakers, clock: Clock) -> None:
    began = clock.now
    clock.now += 1
    fail(breakers)
    clock.now += 10
    assert breakers.admits("demo")
    breakers.succeeded("demo", began)
    breakers.failed("demo", began, POLICY)
    breakers.said_nothing("demo", began)
    breakers.answers("demo", began)
    assert breakers.states() == {"demo": "half-open"}
    assert not breakers.admits("demo")


def test_a_trial_that_begins_to_answer_keeps_nobody_else_waiting(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.answers("demo", clock.now)
    assert breakers.states() == {"demo": "closed"}
    assert all(breakers.admits("demo") for _ in range(3))


def test_and_opens_it_again_for_twice_as_long_should_it_break_off(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.answers("demo", clock.now)
    clock.now += 100
    breakers.failed("demo", clock.now - 100, POLICY)
    assert seconds(breakers) == {"demo": 20.0}


def test_what_began_before_the_outage_is_no_news_once_a_trial_answers_either(breakers: Breakers, clock: Clock) -> None:
    began = clock.now
    clock.now += 1
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.answers("demo", clock.now)
    breakers.failed("demo", began, POLICY)
    assert breakers.states() == {"demo": "closed"}


def test_an_answer_that_begins_while_it_is_closed_changes_nothing(breakers: Breakers) -> None:
    fail(breakers, 2)
    breakers.answers("demo", JUST_NOW)
    breakers.answers("other", JUST_NOW)
    fail(breakers, 1)
    assert breakers.states() == {"demo": "open"}


def test_why_it_is_left_out_is_told_to_others(breakers: Breakers, clock: Clock) -> None:
    breakers.leave_out("demo", 30.0, limited=True)
    other = Breakers(clock)
    other.hear(breakers.outages())
    assert other.limited("demo")
    assert other.outages() == {"demo": Outage(30.0, limited=True)}


def test_the_longest_time_bounds_the_first_too(breakers: Breakers) -> None:
    breakers.failed("demo", JUST_NOW, BreakerPolicy(failures=1, open_s=10.0, max_open_s=4.0))
    assert seconds(breakers) == {"demo": 4.0}


def test_it_can_be_left_out_without_any_failure(breakers: Breakers, clock: Clock) -> None:
    breakers.leave_out("demo", 30.0)
    assert not breakers.admits("demo")
    clock.now += 30
    assert breakers.admits("demo")


def test_a_failed_trial_after_that_takes_the_first_time(breakers: Breakers, clock: Clock) -> None:
    breakers.leave_out("demo", 30.0)
    assert failed_trial(breakers, clock) == 10.0


@pytest.mark.parametrize(("first", "then"), [(30.0, 5.0), (5.0, 30.0)])
def test_of_two_times_the_later_holds(breakers: Breakers, first: float, then: float) -> None:
    breakers.leave_out("demo", first)
    breakers.leave_out("demo", then)
    assert seconds(breakers) == {"demo": 30.0}


def test_an_outage_is_told_until_its_time_is_over(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 4
    assert seconds(breakers) == {"demo": 6.0}
    clock.now += 6
    assert seconds(breakers) == {}


def test_what_others_leave_out_is_left_out(breakers: Breakers) -> None:
    breakers.hear({"demo": Outage(20.0), "other": Outage(5.0)})
    assert seconds(breakers) == {"demo": 20.0, "other": 5.0}
    assert not breakers.admits("demo")


@pytest.mark.parametrize(("heard", "known"), [(5.0, 10.0), (10.0 + NEWS_S, 10.0), (10.5 + NEWS_S, 10.5 + NEWS_S)])
def test_an_echo_is_no_news(breakers: Breakers, heard: float, known: float) -> None:
    breakers.leave_out("demo", 10.0)
    breakers.hear({"demo": Outage(heard)})
    assert seconds(breakers) == {"demo": known}


@pytest.mark.parametrize("heard", [0.0, 0.5, NEWS_S])
def test_what_is_over_when_it_is_heard_leaves_nobody_out(breakers: Breakers, heard: float) -> None:
    breakers.hear({"demo": Outage(heard)})
    assert breakers.admits("demo")
    assert seconds(breakers) == {}


def test_news_do_not_wait_for_a_trial_that_is_on_its_way(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.hear({"demo": Outage(20.0)})
    assert not breakers.admits("demo")
    clock.now += 20
    assert breakers.admits("demo")


STEPS = st.sampled_from(["admits", "may", "succeeded", "failed", "nothing", "hear"]) | st.integers(0, 30)


@given(st.lists(STEPS, max_size=60))
def test_only_a_closed_one_admits_more_than_a_trial(steps: list[str | int]) -> None:
    clock = Clock()
    breakers, trials = Breakers(clock), 0
    for step in steps:
        known = breakers.states().get("demo", "closed")
        if step == "admits":
            admitted = breakers.admits("demo")
            assert admitted is {"closed": True, "open": False, "half-open": trials == 0}[known]
            trials += admitted and known == "half-open"
        elif step == "may":
            assert breakers.may_admit("demo") is (known != "open")
        elif step == "succeeded":
            breakers.succeeded("demo", JUST_NOW)
            if trials or known == "closed":
                assert "demo" not in breakers.outages()
                trials = 0
        elif step == "failed":
            breakers.failed("demo", JUST_NOW, POLICY)
            trials = 0 if breakers.states()["demo"] == "open" else trials
        elif step == "nothing":
            breakers.said_nothing("demo", JUST_NOW)
            trials = 0
        elif step == "hear":
            breakers.hear({"demo": Outage(20.0)})
            trials = 0 if breakers.states()["demo"] == "open" else trials
        else:
            clock.now += float(step)
        assert seconds(breakers).get("demo", 0.0) <= POLICY.max_open_s
