from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.health import NEWS_S, BreakerPolicy, Breakers

POLICY = BreakerPolicy(failures=3, open_s=10.0, max_open_s=60.0)


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


def fail(breakers: Breakers, times: int = POLICY.failures) -> None:
    for _ in range(times):
        breakers.failed("demo", POLICY)


def test_a_model_of_which_nothing_is_known_is_asked(breakers: Breakers) -> None:
    assert breakers.admits("demo")
    assert breakers.may_admit("demo")
    assert breakers.states() == {}
    assert breakers.outages() == {}


def test_what_goes_well_or_says_nothing_is_not_kept(breakers: Breakers) -> None:
    breakers.succeeded("demo")
    breakers.said_nothing("demo")
    assert breakers.states() == {}


@pytest.mark.parametrize(("failures", "known"), [(1, "closed"), (2, "closed"), (3, "open")])
def test_so_many_failures_in_a_row_open_it(breakers: Breakers, failures: int, known: str) -> None:
    fail(breakers, failures)
    assert breakers.states() == {"demo": known}
    assert breakers.admits("demo") is (known == "closed")


def test_a_success_between_them_starts_the_row_anew(breakers: Breakers) -> None:
    fail(breakers, 2)
    breakers.succeeded("demo")
    fail(breakers, 2)
    assert breakers.states() == {"demo": "closed"}


def test_what_says_nothing_does_not_break_the_row(breakers: Breakers) -> None:
    fail(breakers, 2)
    breakers.said_nothing("demo")
    fail(breakers, 1)
    assert breakers.states() == {"demo": "open"}


def test_each_model_has_its_own(breakers: Breakers) -> None:
    fail(breakers)
    breakers.failed("other", POLICY)
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
    breakers.succeeded("demo")
    assert breakers.states() == {"demo": "closed"}
    assert all(breakers.admits("demo") for _ in range(3))


def test_a_trial_that_says_nothing_leaves_the_turn_to_the_next(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.said_nothing("demo")
    assert breakers.states() == {"demo": "half-open"}
    assert [breakers.admits("demo") for _ in range(2)] == [True, False]


def failed_trial(breakers: Breakers, clock: Clock) -> float:
    """For how long it is left out after a trial that failed."""
    clock.now += breakers.outages()["demo"]
    assert breakers.admits("demo")
    breakers.failed("demo", POLICY)
    return breakers.outages()["demo"]


def test_each_failed_trial_doubles_the_time_up_to_the_longest(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    assert [failed_trial(breakers, clock) for _ in range(4)] == [20.0, 40.0, 60.0, 60.0]


def test_after_a_success_the_time_is_the_first_one_again(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    failed_trial(breakers, clock)
    clock.now += 20
    breakers.admits("demo")
    breakers.succeeded("demo")
    fail(breakers)
    assert breakers.outages() == {"demo": 10.0}


def test_requests_that_began_before_it_opened_are_no_news(breakers: Breakers) -> None:
    fail(breakers, 20)
    assert breakers.outages() == {"demo": 10.0}
    breakers.succeeded("demo")
    assert breakers.outages() == {"demo": 10.0}


def test_the_longest_time_bounds_the_first_too(breakers: Breakers) -> None:
    breakers.failed("demo", BreakerPolicy(failures=1, open_s=10.0, max_open_s=4.0))
    assert breakers.outages() == {"demo": 4.0}


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
    assert breakers.outages() == {"demo": 30.0}


def test_an_outage_is_told_until_its_time_is_over(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 4
    assert breakers.outages() == {"demo": 6.0}
    clock.now += 6
    assert breakers.outages() == {}


def test_what_others_leave_out_is_left_out(breakers: Breakers) -> None:
    breakers.hear({"demo": 20.0, "other": 5.0})
    assert breakers.outages() == {"demo": 20.0, "other": 5.0}
    assert not breakers.admits("demo")


@pytest.mark.parametrize(("heard", "known"), [(5.0, 10.0), (10.0 + NEWS_S, 10.0), (10.5 + NEWS_S, 10.5 + NEWS_S)])
def test_an_echo_is_no_news(breakers: Breakers, heard: float, known: float) -> None:
    breakers.leave_out("demo", 10.0)
    breakers.hear({"demo": heard})
    assert breakers.outages() == {"demo": known}


@pytest.mark.parametrize("heard", [0.0, 0.5, NEWS_S])
def test_what_is_over_when_it_is_heard_leaves_nobody_out(breakers: Breakers, heard: float) -> None:
    breakers.hear({"demo": heard})
    assert breakers.admits("demo")
    assert breakers.outages() == {}


def test_news_do_not_wait_for_a_trial_that_is_on_its_way(breakers: Breakers, clock: Clock) -> None:
    fail(breakers)
    clock.now += 10
    breakers.admits("demo")
    breakers.hear({"demo": 20.0})
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
            breakers.succeeded("demo")
            if trials or known == "closed":
                assert "demo" not in breakers.outages()
                trials = 0
        elif step == "failed":
            breakers.failed("demo", POLICY)
            trials = 0 if breakers.states()["demo"] == "open" else trials
        elif step == "nothing":
            breakers.said_nothing("demo")
            trials = 0
        elif step == "hear":
            breakers.hear({"demo": 20.0})
            trials = 0 if breakers.states()["demo"] == "open" else trials
        else:
            clock.now += float(step)
        assert breakers.outages().get("demo", 0.0) <= POLICY.max_open_s
