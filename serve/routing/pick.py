"""Which replica answers: filter those that can, score them, pick one. Pure but for the injected `Random`.

The names are those of llm-d's scheduler. The score is a replica's *occupancy*: how full it is, 0 when idle, 1
at its capacity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from serve.adapter_versions import unusable
from serve.errors import AT_CAPACITY, TooManyRequests, Unavailable
from serve.registry import Snapshot
from serve.routing.rendezvous import rendezvous
from serve.schemas import AdapterRef, ReplicaPhase, ReplicaState, Target


@dataclass(frozen=True, slots=True)
class PickPolicy:
    """How to weigh affinity against load."""

    spread: float = 0.25
    """How much fuller, in shares of capacity, a replica may be than the idlest one and still be preferred for
    having the adapter. Beyond it the adapter spreads to one more replica. 0 is least-loaded routing; at 1 it
    spreads only when the replica is full."""
    kv_weight: float = 0.5
    """What a full KV cache counts for, in shares of capacity: few long requests can fill a replica too."""
    retry_after_s: float = 1.0
    """What to tell a caller for whom there is no replica."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one request, or its router, knows beyond the snapshot."""

    unreported: Mapping[str, int] = field(default_factory=dict)
    """`InFlight.unreported`: by replica id, this router's requests to add to what that last reported."""
    tried: Collection[str] = field(default_factory=frozenset)
    """Replicas that this request has tried."""
    sticky: str | None = None
    """The replica that the request's session is pinned to: taken if it can answer at all."""


_NO_TRAFFIC = Traffic()
_DEFAULT_POLICY = PickPolicy()


def pick(
    target: Target,
    snapshot: Snapshot,
    rng: Random,
    traffic: Traffic = _NO_TRAFFIC,
    policy: PickPolicy = _DEFAULT_POLICY,
) -> ReplicaState:
    """The replica to send a request for `target` to.

    Raises `Unavailable` when no replica is ready for it (or each was tried), `TooManyRequests` when all that
    are have no room, `AdapterUnusable` when every replica that knows the adapter has a fault to report of it.
    """
    usable = [state for state in _able(target, snapshot, policy) if state.replica_id not in traffic.tried]
    if not usable:
        raise _unavailable(target, policy)
    room = [state for state in usable if _in_flight(state, traffic) < state.capacity]
    if not room:
        full = f"All replicas of '{target.model}' are at capacity."
        raise TooManyRequests(full, None, AT_CAPACITY, policy.retry_after_s)
    for state in room:
        if state.replica_id == traffic.sticky:
            return state
    if len(room) == 1:
        return room[0]
    scores = {state.replica_id: _occupancy(state, traffic, policy) for state in room}
    if target.adapter is None:
        return _less_occupied_of_two(room, scores, rng)
    return _near_the_adapter(target.adapter, room, scores, rng, policy)


def _able(target: Target, snapshot: Snapshot, policy: PickPolicy) -> list[ReplicaState]:
    """Filter: ready, and able to load the adapter."""
    if target.adapter is None:
        hosts = snapshot.replicas_of(target.model)
    else:
        hosts = snapshot.hosts_of(target.adapter)
        if not hosts:
            _refuse_faulty(target.adapter, snapshot)
    able = [state for state in hosts if state.phase is ReplicaPhase.READY]
    if not able:
        raise _unavailable(target, policy)
    return able


def _refuse_faulty(adapter: AdapterRef, snapshot: Snapshot) -> None:
    """Tell an adapter that nobody can load from one that nobody has yet."""
    for version in snapshot.versions_of(adapter.model, adapter.name):
        if version.ref.digest == adapter.digest:
            raise unusable(version)


def _unavailable(target: Target, policy: PickPolicy) -> Unavailable:
    return Unavailable(f"No replica of '{target.model}' is ready for this request.", retry_after_s=policy.retry_after_s)


def _in_flight(state: ReplicaState, traffic: Traffic) -> int:
    return max(0, state.load.in_flight + traffic.unreported.get(state.replica_id, 0))


def _occupancy(state: ReplicaState, traffic: Traffic, policy: PickPolicy) -> float:
    """Score: requests accepted, the engine's queue once more (its slots are taken), and the KV cache."""
    requests = _in_flight(state, traffic) + state.load.waiting
    return requests / state.capacity + policy.kv_weight * state.load.kv_cache


def _less_occupied_of_two(states: Sequence[ReplicaState], scores: Mapping[str, float], rng: Random) -> ReplicaState:
    """Power of two choices: routers with the same, somewhat old snapshot do not all rush to one replica."""
    if len(states) == 1:
        return states[0]
    one, other = rng.sample(states, 2)
    return one if scores[one.replica_id] <= scores[other.replica_id] else other


def _near_the_adapter(
    adapter: AdapterRef,
    room: Sequence[ReplicaState],
    scores: Mapping[str, float],
    rng: Random,
    policy: PickPolicy,
) -> ReplicaState:
    """One that has the adapter, else its home by rendezvous hash; neither if much fuller than the idlest.

    The home is the same for every router, so an adapter asked for through several of them is still loaded
    once.
    """
    limit = min(scores.values()) + policy.spread
    near = [state for state in room if scores[state.replica_id] <= limit]
    address = adapter.address
    resident = [state for state in near if address in state.resident]
    if resident:
        return _less_occupied_of_two(resident, scores, rng)
    by_id = {state.replica_id: state for state in near}
    return by_id[rendezvous(address, by_id)[0]]
