from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.registry import Snapshot
from serve.routing.inflight import InFlight
from serve.schemas import Load, ReplicaPhase, ReplicaState


def snapshot(**in_flight: int) -> Snapshot:
    """Each replica with what it reports to have in flight."""
    states = (
        ReplicaState(one, "http://127.0.0.1:1", ReplicaPhase.READY, ("demo",), 8, Load(in_flight=count))
        for one, count in in_flight.items()
    )
    return Snapshot("e", 1, False, tuple(states))


def test_requests_since_the_last_report_are_added_to_it() -> None:
    mine = InFlight()
    mine.observe(snapshot(r1=5))
    mine.start("r1")
    mine.start("r1")
    assert mine.unreported["r1"] == 2
    mine.finish("r1")
    assert mine.unreported["r1"] == 1


def test_a_new_report_has_counted_them() -> None:
    mine = InFlight()
    mine.observe(snapshot(r1=5))
    mine.start("r1")
    mine.observe(snapshot(r1=6))
    assert mine.unreported["r1"] == 0
    mine.finish("r1")
    assert mine.unreported["r1"] == -1


def test_a_repeated_report_has_not() -> None:
    mine = InFlight()
    mine.observe(snapshot(r1=5))
    mine.start("r1")
    mine.observe(snapshot(r1=5))
    assert mine.unreported["r1"] == 1


def test_a_report_cannot_hold_less_than_is_open_here() -> None:
    mine = InFlight()
    for _ in range(3):
        mine.start("r1")
    mine.observe(snapshot(r1=1))
    assert mine.unreported["r1"] == 2


def test_a_replica_that_is_gone_is_forgotten_when_its_last_request_is() -> None:
    mine = InFlight()
    mine.observe(snapshot(r1=0, r2=0))
    mine.start("r1")
    mine.observe(snapshot(r2=0))
    assert mine.unreported == {"r1": 1, "r2": 0}
    mine.finish("r1")
    mine.observe(snapshot(r2=0))
    assert mine.unreported == {"r2": 0}


@given(st.lists(st.sampled_from(["start", "finish", "heartbeat", "observe"])))
def test_a_sole_router_never_sees_less_than_it_has_open(steps: list[str]) -> None:
    mine, open_now, reported = InFlight(), 0, 0
    for step in steps:
        if step == "start":
            mine.start("r1")
            open_now += 1
        elif step == "finish" and open_now:
            mine.finish("r1")
            open_now -= 1
        elif step == "heartbeat":
            reported = open_now
        elif step == "observe":
            mine.observe(snapshot(r1=reported))
            seen = reported + mine.unreported["r1"]
            assert seen >= open_now
