from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve.errors import AdapterUnusable, NotFound, Unavailable
from serve.registry import Registry, Snapshot, merge
from serve.schemas import AdapterRef, AdapterVersion, Load, ReplicaPhase, ReplicaState

NO_DIGEST = "0" * 12
EXPIRY_S = 10.0
REBUILD_S = 5.0
NEVER_S = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    """One that is past its rebuild and holds load changes back for ever."""
    registry = Registry(EXPIRY_S, REBUILD_S, clock, load_delay_s=NEVER_S)
    clock.now += REBUILD_S
    return registry


def replica(replica_id: str, **changes: Any) -> ReplicaState:
    state = ReplicaState(replica_id, f"http://{replica_id}:1", ReplicaPhase.READY, models=("demo",), capacity=8)
    return replace(state, **changes)


def version(name: str, digest: str, *, current: bool = True, since: float = 0, **more: Any) -> AdapterVersion:
    label = more.pop("label", None)
    return AdapterVersion(AdapterRef("demo", name, digest, label), current, since, **more)


def snapshot_of(*replicas: ReplicaState, **fields: Any) -> Snapshot:
    return Snapshot(**{"epoch": "e", "version": 1, "rebuilding": False, "replicas": replicas, **fields})


def ids(snapshot: Snapshot) -> list[str]:
    return [state.replica_id for state in snapshot.replicas]


# Replicas come, change and go.


def test_a_heartbeat_makes_a_replica_known(registry: Registry) -> None:
    before = registry.snapshot()
    registry.heartbeat(replica("r2"))
    registry.heartbeat(replica("r1"))
    after = registry.snapshot()
    assert ids(after) == ["r1", "r2"]
    assert after.version > before.version
    assert after.epoch == before.epoch


def test_a_repeated_heartbeat_changes_nothing_but_keeps_it_alive(registry: Registry, clock: Clock) -> None:
    registry.heartbeat(replica("r1"))
    before = registry.snapshot()
    clock.now += EXPIRY_S / 2
    registry.heartbeat(replica("r1"))
    clock.now += EXPIRY_S / 2
    assert registry.snapshot() is before


def test_a_silent_replica_is_gone_after_the_expiry(registry: Registry, clock: Clock) -> None:
    registry.heartbeat(replica("r1"))
    clock.now += EXPIRY_S - 0.001
    assert ids(registry.snapshot()) == ["r1"]
    clock.now += 0.001
    assert ids(registry.snapshot()) == []


def test_a_replica_that_leaves_is_gone_at_once_and_may_do_so_twice(registry: Registry) -> None:
    registry.heartbeat(replica("r1"))
    registry.leave("r1")
    gone = registry.snapshot()
    registry.leave("r1")
    assert ids(gone) == []
    assert registry.snapshot() is gone


def test_each_registry_has_an_epoch_of_its_own_and_rebuilds_at_first(clock: Clock) -> None:
    one, other = Registry(EXPIRY_S, REBUILD_S, clock), Registry(EXPIRY_S, REBUILD_S, clock)
    assert one.snapshot().epoch != other.snapshot().epoch
    assert one.snapshot().rebuilding
    clock.now += REBUILD_S
    assert not one.snapshot().rebuilding


class RegistryLife(RuleBasedStateMachine):
    """Against the simplest model: when each replica was last heard."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.start = self.clock.now
        self.registry = Registry(EXPIRY_S, REBUILD_S, self.clock)
        self.heard: dict[str, float] = {}
        self.last = self.registry.snapshot()

    @rule(one=st.sampled_from("abcd"), in_flight=st.integers(0, 3))
    def heartbeat(self, one: str, in_flight: int) -> None:
        self.registry.heartbeat(replica(one, load=Load(in_flight=in_flight)))
        self.heard[one] = self.clock.now

    @rule(one=st.sampled_from("abcd"))
    def leave(self, one: str) -> None:
        self.registry.leave(one)
        self.heard.pop(one, None)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_snapshot_is_what_was_heard_lately(self) -> None:
        snapshot = self.registry.snapshot()
        assert ids(snapshot) == sorted(one for one, heard in self.heard.items() if self.clock.now < heard + EXPIRY_S)
        assert snapshot.rebuilding == (self.clock.now < self.start + REBUILD_S)
        assert snapshot.left.isdisjoint(ids(snapshot))
        assert snapshot.rebuilding or not snapshot.left
        if snapshot != self.last:
            assert snapshot.version > self.last.version
        else:
            assert snapshot is self.last
        self.last = snapshot


TestRegistryLife = RegistryLife.TestCase


# Long polls.


async def test_a_poll_that_is_behind_is_answered_at_once(registry: Registry) -> None:
    before = registry.snapshot()
    registry.heartbeat(replica("r1"))
    assert ids(await registry.wait_for_change(before.version, NEVER_S)) == ["r1"]


async def test_a_poll_of_an_earlier_registry_is_answered_at_once(registry: Registry) -> None:
    snapshot = registry.snapshot()
    assert await registry.wait_for_change(10**6, NEVER_S, "another epoch") is snapshot


async def test_without_a_change_a_poll_ends_at_its_timeout(registry: Registry) -> None:
    snapshot = registry.snapshot()
    assert await registry.wait_for_change(snapshot.version, 0.01, snapshot.epoch) is snapshot


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": ReplicaPhase.DRAINING},
        {"models": ("demo", "other")},
        {"adapters": (version("support", "a"),)},
        {"resident": frozenset({"demo:support@a"})},
    ],
)
async def test_a_change_of_routing_wakes_every_poller(registry: Registry, changes: dict[str, Any]) -> None:
    registry.heartbeat(replica("r1"))
    seen = registry.snapshot().version
    polls = [asyncio.create_task(registry.wait_for_change(seen, NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    registry.heartbeat(replica("r1", **changes))
    assert {(await poll).version for poll in polls} == {registry.snapshot().version}


async def test_a_replica_that_leaves_wakes_pollers(registry: Registry) -> None:
    registry.heartbeat(replica("r1"))
    poll = asyncio.create_task(registry.wait_for_change(registry.snapshot().version, NEVER_S))
    await asyncio.sleep(0)
    registry.leave("r1")
    assert ids(await poll) == []


async def test_silence_wakes_pollers_without_any_call() -> None:
    registry = Registry(expiry_s=0.01, rebuild_s=0)
    registry.heartbeat(replica("r1"))
    assert ids(await registry.wait_for_change(registry.snapshot().version, NEVER_S)) == []


async def test_the_end_of_the_rebuild_wakes_pollers_without_any_call() -> None:
    registry = Registry(NEVER_S, rebuild_s=0.01)
    assert not (await registry.wait_for_change(registry.snapshot().version, NEVER_S)).rebuilding


async def test_a_change_of_load_alone_is_held_back_and_comes_with_the_next_one(registry: Registry) -> None:
    registry.heartbeat(replica("r1"))
    poll = asyncio.create_task(registry.wait_for_change(registry.snapshot().version, NEVER_S))
    await asyncio.sleep(0)
    registry.heartbeat(replica("r1", load=Load(in_flight=3)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not poll.done()
    registry.heartbeat(replica("r2"))
    assert (await poll).replicas[0].load.in_flight == 3


async def test_a_change_of_load_is_held_back_no_longer_than_its_delay(clock: Clock) -> None:
    registry = Registry(EXPIRY_S, 0, clock, load_delay_s=0.01)
    registry.heartbeat(replica("r1"))
    poll = asyncio.create_task(registry.wait_for_change(registry.snapshot().version, NEVER_S))
    await asyncio.sleep(0)
    registry.heartbeat(replica("r1", load=Load(in_flight=3)))
    assert (await poll).replicas[0].load.in_flight == 3


async def test_too_many_polls_are_refused_and_the_room_comes_back(clock: Clock) -> None:
    registry = Registry(EXPIRY_S, 0, clock, max_waiters=1)
    seen = registry.snapshot().version
    poll = asyncio.create_task(registry.wait_for_change(seen, NEVER_S))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await registry.wait_for_change(seen, NEVER_S)
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert await registry.wait_for_change(seen, 0) is registry.snapshot()


# What a snapshot says.


def test_replicas_and_ready_models_are_found_by_model() -> None:
    snapshot = snapshot_of(
        replica("r1"),
        replica("r2", models=("other",), phase=ReplicaPhase.STARTING),
        replica("r3", models=("demo", "third")),
    )
    assert [state.replica_id for state in snapshot.replicas_of("demo")] == ["r1", "r3"]
    assert [state.replica_id for state in snapshot.replicas_of("other")] == ["r2"]
    assert snapshot.replicas_of("unknown") == ()
    assert snapshot.ready_models() == {"demo", "third"}


def test_it_pickles_without_its_indexes() -> None:
    snapshot = snapshot_of(replica("r1", adapters=(version("support", "a"),)), left=frozenset({"r9"}))
    before = pickle.dumps(snapshot)
    snapshot.resolve_adapter("demo", "support", None)
    assert pickle.dumps(snapshot) == before
    assert pickle.loads(before) == snapshot


def test_the_current_version_is_the_one_that_became_so_last() -> None:
    behind = version("support", "a", since=10)
    promoted = (version("support", "a", current=False, since=30), version("support", "b", since=20))
    snapshot = snapshot_of(replica("r1", adapters=(behind,)), replica("r2", adapters=promoted))
    assert snapshot.resolve_adapter("demo", "support", None).digest == "b"


def test_a_version_is_found_by_digest_or_label_current_or_not() -> None:
    versions = (version("support", "a", current=False, label="v1"), version("support", "b", label="v2"))
    snapshot = snapshot_of(replica("r1", adapters=versions))
    assert snapshot.resolve_adapter("demo", "support", "a").digest == "a"
    assert snapshot.resolve_adapter("demo", "support", "v1").digest == "a"
    assert snapshot.resolve_adapter("demo", "support", "v2").digest == "b"


def test_a_digest_comes_before_a_label_and_a_newer_label_before_an_older() -> None:
    versions = (
        version("support", "a", label="b", since=9),
        version("support", "b", label="v", since=1),
        version("support", "c", label="v", since=2),
    )
    snapshot = snapshot_of(replica("r1", adapters=versions))
    assert snapshot.resolve_adapter("demo", "support", "b").digest == "b"
    assert snapshot.resolve_adapter("demo", "support", "v").digest == "c"


@pytest.mark.parametrize(
    ("model", "name", "asked"),
    [
        ("demo", "sales", None),
        ("other", "support", None),
        ("demo", "support", "z"),
        ("demo", "support", ""),
        ("demo", "old", None),
    ],
)
def test_unknown_adapters_versions_and_ones_without_a_current_version_are_not_found(
    model: str, name: str, asked: str | None
) -> None:
    versions = (version("support", "a"), version("old", "a", current=False))
    with pytest.raises(NotFound) as caught:
        snapshot_of(replica("r1", adapters=versions)).resolve_adapter(model, name, asked)
    assert caught.value.code == "adapter_not_found"
    assert caught.value.param == "model"


def test_an_adapter_that_one_replica_can_load_is_usable() -> None:
    able, unable = version("support", "a"), version("support", "a", fault="too large")
    snapshot = snapshot_of(replica("r1", adapters=(unable,)), replica("r2", adapters=(able,)))
    ref = snapshot.resolve_adapter("demo", "support", None)
    assert [state.replica_id for state in snapshot.hosts_of(ref)] == ["r2"]


def test_one_that_none_can_load_is_unusable_and_no_older_version_takes_its_place() -> None:
    versions = (version("support", "a", since=1), version("support", "b", since=2, fault="too large"))
    snapshot = snapshot_of(replica("r1", adapters=versions), replica("r2", adapters=versions))
    with pytest.raises(AdapterUnusable, match="too large"):
        snapshot.resolve_adapter("demo", "support", None)
    assert snapshot.resolve_adapter("demo", "support", "a").digest == "a"


def test_a_version_of_several_replicas_is_listed_once_and_only_with_its_own_adapter() -> None:
    foreign = AdapterVersion(AdapterRef("other", "support", "c"), current=True, since=0)
    snapshot = snapshot_of(
        replica("r1", adapters=(version("support", "b"), version("sales", "a"), foreign)),
        replica("r2", adapters=(version("support", "b", since=5),)),
    )
    assert snapshot.versions_of("demo", "support") == (version("support", "b", since=5),)
    assert snapshot.versions_of("demo", "nobody") == ()


def test_labels_of_the_same_files_are_all_found() -> None:
    versions = (version("support", "a", label="stable"), version("support", "a", label="v2", current=False, since=1))
    snapshot = snapshot_of(replica("r1", adapters=versions), replica("r2", adapters=versions))
    assert {snapshot.resolve_adapter("demo", "support", asked).digest for asked in ("v2", "stable", "a", None)} == {"a"}


def test_each_source_that_cannot_be_read_keeps_its_label_and_its_fault() -> None:
    broken = [
        version("support", NO_DIGEST, label=label, current=False, fault=f"{label} is gone") for label in ("v1", "v2")
    ]
    snapshot = snapshot_of(replica("r1", adapters=(version("support", "a", label="v3"), *broken)))
    for label in ("v1", "v2"):
        with pytest.raises(AdapterUnusable, match=f"{label} is gone"):
            snapshot.resolve_adapter("demo", "support", label)


def test_files_that_one_replica_can_load_are_usable_by_every_label() -> None:
    able = version("support", "a", label="v1")
    unable = version("support", "a", label="v2", fault="too large")
    snapshot = snapshot_of(replica("r1", adapters=(able,)), replica("r2", adapters=(unable,)))
    assert snapshot.resolve_adapter("demo", "support", "v2").digest == "a"


# What a router believes when the registry has been replaced.

REPLICAS = st.sets(st.sampled_from("abcdef")).map(lambda names: tuple(replica(one) for one in sorted(names)))


@st.composite
def snapshots(draw: st.DrawFn, epoch: str) -> Snapshot:
    load = Load(in_flight=draw(st.integers(0, 3)))
    replicas = tuple(replace(one, load=load) for one in draw(REPLICAS))
    rebuilding = draw(st.booleans())
    left = draw(st.frozensets(st.sampled_from("abcdef"))) if rebuilding else frozenset()
    left -= {one.replica_id for one in replicas}
    return Snapshot(epoch, draw(st.integers(1, 5)), rebuilding, replicas, left)


@given(snapshots("old"), snapshots("new"))
def test_while_rebuilding_only_those_that_left_are_forgotten(previous: Snapshot, fresh: Snapshot) -> None:
    merged = merge(previous, fresh)
    kept = set(ids(previous)) - fresh.left if fresh.rebuilding else set()
    assert set(ids(merged)) == set(ids(fresh)) | kept
    assert set(fresh.replicas) <= set(merged.replicas)
    assert (merged.epoch, merged.version, merged.rebuilding) == (fresh.epoch, fresh.version, fresh.rebuilding)
    assert ids(merged) == sorted(set(ids(merged)))


@given(snapshots("old"), snapshots("new"))
def test_merging_the_same_again_changes_nothing(previous: Snapshot, fresh: Snapshot) -> None:
    merged = merge(previous, fresh)
    assert merge(merged, fresh) == merged


@given(snapshots("new"), snapshots("new"))
def test_an_overtaken_snapshot_changes_nothing(previous: Snapshot, fresh: Snapshot) -> None:
    if fresh.version < previous.version:
        assert merge(previous, fresh) is previous


def test_a_killed_registry_costs_no_replica_and_in_the_end_forgets_the_dead(
    clock: Clock,
) -> None:
    first = Registry(EXPIRY_S, REBUILD_S, clock)
    for one in ("stays", "leaves", "dies"):
        first.heartbeat(replica(one))
    believed = first.snapshot()

    second = Registry(EXPIRY_S, REBUILD_S, clock)
    believed = merge(believed, second.snapshot())
    assert ids(believed) == ["dies", "leaves", "stays"]
    second.heartbeat(replica("stays"))
    second.leave("leaves")
    believed = merge(believed, second.snapshot())
    assert ids(believed) == ["dies", "stays"]
    clock.now += REBUILD_S
    assert ids(merge(believed, second.snapshot())) == ["stays"]
