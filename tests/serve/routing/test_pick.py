from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import AdapterUnusable, SwitchboardError, TooManyRequests, Unavailable
from serve.registry import Snapshot
from serve.routing.pick import PickPolicy, Traffic, pick
from serve.routing.rendezvous import rendezvous
from serve.schemas import AdapterRef, AdapterVersion, Load, ReplicaPhase, ReplicaState, Target

SUPPORT = AdapterRef("demo", "support", "1" * 12)
BASE, ADAPTED = Target("demo"), Target("demo", SUPPORT)
ABLE = (AdapterVersion(SUPPORT, current=True, since=1),)
UNABLE = (AdapterVersion(SUPPORT, current=True, since=1, fault="too large"),)
HERE = frozenset({SUPPORT.address})


def replica(replica_id: str, in_flight: int = 0, **changes: Any) -> ReplicaState:
    state = ReplicaState(
        replica_id,
        f"http://{replica_id}:1",
        ReplicaPhase.READY,
        models=("demo",),
        capacity=16,
        load=Load(in_flight=in_flight),
        adapters=ABLE,
    )
    return replace(state, **changes)


def snapshot(*replicas: ReplicaState) -> Snapshot:
    return Snapshot("e", 1, False, replicas)


def picked(target: Target, *replicas: ReplicaState, policy: PickPolicy | None = None, **traffic: Any) -> set[str]:
    """Whom it may be, whatever the dice say."""
    seen = snapshot(*replicas)
    policy = policy or PickPolicy()
    return {pick(target, seen, Random(seed), Traffic(**traffic), policy).replica_id for seed in range(30)}


# Filter.


@pytest.mark.parametrize(
    "unfit",
    [
        replica("r2", phase=ReplicaPhase.STARTING),
        replica("r2", phase=ReplicaPhase.DRAINING),
        replica("r2", models=("other",), adapters=()),
        replica("r2", adapters=()),
        replica("r2", adapters=UNABLE),
        replica("r2", in_flight=16),
        replica("r2", capacity=0),
    ],
)
def test_a_replica_that_cannot_answer_is_never_picked(unfit: ReplicaState) -> None:
    assert picked(ADAPTED, replica("r1", in_flight=15), unfit) == {"r1"}


def test_the_base_model_needs_no_adapter() -> None:
    assert picked(BASE, replica("r1", adapters=UNABLE), replica("r2", adapters=())) == {"r1", "r2"}


def test_a_replica_that_was_tried_is_not_tried_again() -> None:
    assert picked(ADAPTED, replica("r1"), replica("r2"), tried={"r1"}) == {"r2"}


def test_this_routers_own_requests_count_before_the_replica_reports_them() -> None:
    assert picked(BASE, replica("r1"), replica("r2"), unreported={"r1": 16}) == {"r2"}
    assert picked(BASE, replica("r1", in_flight=16), unreported={"r1": -1}) == {"r1"}


@pytest.mark.parametrize(
    ("replicas", "tried", "error"),
    [
        ((), (), Unavailable),
        ((replica("r1", phase=ReplicaPhase.STARTING),), (), Unavailable),
        ((replica("r1", adapters=()),), (), Unavailable),
        ((replica("r1"), replica("r2")), ("r1", "r2"), Unavailable),
        ((replica("r1", adapters=UNABLE), replica("r2", phase=ReplicaPhase.STARTING)), (), Unavailable),
        ((replica("r1", in_flight=16),), (), TooManyRequests),
        ((replica("r1"), replica("r2", in_flight=16)), ("r1",), TooManyRequests),
        ((replica("r1", adapters=UNABLE), replica("r2", adapters=UNABLE)), (), AdapterUnusable),
        ((replica("r1", adapters=UNABLE), replica("r2", adapters=())), (), AdapterUnusable),
    ],
)
def test_when_nobody_can_answer_the_error_says_why(
    replicas: tuple[ReplicaState, ...], tried: tuple[str, ...], error: type[SwitchboardError]
) -> None:
    with pytest.raises(error) as caught:
        pick(ADAPTED, snapshot(*replicas), Random(0), Traffic(tried=tried), PickPolicy(retry_after_s=3))
    assert type(caught.value) is error
    assert caught.value.retry_after_s == (None if error is AdapterUnusable else 3)


# Score.


def test_the_sessions_replica_is_taken_as_long_as_it_has_room() -> None:
    others = (replica("r2", resident=HERE), replica("r3", resident=HERE))
    assert picked(ADAPTED, replica("r1", in_flight=15), *others, sticky="r1") == {"r1"}
    assert "r1" not in picked(ADAPTED, replica("r1", in_flight=16), *others, sticky="r1")
    assert "r1" not in picked(ADAPTED, replica("r1"), *others, sticky="r1", tried={"r1"})
    assert picked(ADAPTED, *others, sticky="gone") == {"r2", "r3"}


def test_a_replica_that_has_the_adapter_is_preferred_though_busier() -> None:
    assert picked(ADAPTED, replica("r1", in_flight=4, resident=HERE), replica("r2")) == {"r1"}


def test_beyond_the_spread_the_adapter_goes_to_one_more_replica() -> None:
    hot = replica("r1", in_flight=5, resident=HERE)
    others = [replica(f"r{index}") for index in range(2, 9)]
    home = rendezvous(SUPPORT.address, [state.replica_id for state in others])[0]
    assert picked(ADAPTED, hot, *others) == {home}
    assert picked(ADAPTED, hot, *others, policy=PickPolicy(spread=0.5)) == {"r1"}


def test_an_adapter_that_nobody_has_goes_home_for_every_router() -> None:
    replicas = [replica(f"r{index}", in_flight=index % 3) for index in range(8)]
    home, second, *_ = rendezvous(SUPPORT.address, [state.replica_id for state in replicas])
    assert picked(ADAPTED, *replicas) == {home}
    assert picked(ADAPTED, *reversed(replicas)) == {home}
    assert picked(ADAPTED, *replicas, unreported={home: 8}) == {second}


def test_of_two_the_less_occupied_is_taken() -> None:
    assert picked(BASE, replica("r1", in_flight=1), replica("r2")) == {"r2"}
    assert picked(ADAPTED, replica("r1", 1, resident=HERE), replica("r2", resident=HERE)) == {"r2"}


@pytest.mark.parametrize("busier", [Load(in_flight=2, waiting=2), Load(in_flight=2, kv_cache=0.5)])
def test_the_engines_queue_and_a_full_kv_cache_count_too(busier: Load) -> None:
    assert picked(BASE, replica("r1", load=busier), replica("r2", in_flight=3)) == {"r2"}


def test_occupancy_is_relative_to_capacity() -> None:
    assert picked(BASE, replica("r1", in_flight=4, capacity=64), replica("r2", in_flight=2)) == {"r1"}


def test_equals_share_the_requests() -> None:
    rng = Random(0)
    seen = snapshot(*(replica(f"r{index}") for index in range(4)))
    shares = Counter(pick(BASE, seen, rng).replica_id for _ in range(4000))
    assert min(shares.values()) > 850


@st.composite
def replicas(draw: st.DrawFn) -> tuple[ReplicaState, ...]:
    count = draw(st.integers(0, 6))
    return tuple(
        replica(
            f"r{index}",
            load=Load(draw(st.integers(0, 20)), 0, draw(st.integers(0, 9)), draw(st.floats(0, 1))),
            phase=draw(st.sampled_from(ReplicaPhase)),
            adapters=draw(st.sampled_from([ABLE, UNABLE, ()])),
            resident=draw(st.sampled_from([HERE, frozenset()])),
        )
        for index in range(count)
    )


@given(replicas(), st.sampled_from([BASE, ADAPTED]), st.sets(st.sampled_from(["r0", "r1", "r2"])), st.integers())
def test_whoever_is_picked_can_answer(
    states: tuple[ReplicaState, ...], target: Target, tried: set[str], seed: int
) -> None:
    fit = {
        state.replica_id
        for state in states
        if state.phase is ReplicaPhase.READY
        and state.load.in_flight < state.capacity
        and state.replica_id not in tried
        and (target.adapter is None or state.adapters == ABLE)
    }
    if fit:
        assert pick(target, snapshot(*states), Random(seed), Traffic(tried=tried)).replica_id in fit
    else:
        with pytest.raises((Unavailable, TooManyRequests, AdapterUnusable)):
            pick(target, snapshot(*states), Random(seed), Traffic(tried=tried))
