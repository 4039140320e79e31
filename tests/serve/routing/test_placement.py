"""What `pick` does to a fleet: a simulation of adapters in slots, replayed from a seed.

The figure is DESIGN.md's ("Numbers to reach"): adapters that are asked for by Zipf's law, as many as the
fleet has slots and four times as many, against least-loaded routing of the same requests.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

import pytest

from serve.registry import Snapshot
from serve.routing.inflight import InFlight
from serve.routing.pick import PickPolicy, Traffic, pick
from serve.schemas import AdapterRef, AdapterVersion, Load, ReplicaPhase, ReplicaState, Target

REPLICAS, SLOTS, CAPACITY, HEARTBEAT_EVERY, REQUESTS = 8, 4, 16, 8, 6000
ADAPTERS = [AdapterRef("demo", f"a{index}", f"{index:012x}") for index in range(4 * REPLICAS * SLOTS)]
ADVERTISED = tuple(AdapterVersion(ref, current=True, since=0) for ref in ADAPTERS)

Choose: TypeAlias = "Callable[[Fleet, Snapshot, AdapterRef], int]"


@dataclass
class Fleet:
    """Replicas that hold the adapters used last, and what a router that heartbeats late knows of them."""

    slots: list[OrderedDict[str, None]] = field(default_factory=lambda: [OrderedDict() for _ in range(REPLICAS)])
    in_flight: list[int] = field(default_factory=lambda: [0] * REPLICAS)
    served: list[int] = field(default_factory=lambda: [0] * REPLICAS)
    loads: int = 0
    excess: float = 0.0
    """Sum over requests of how far the fullest replica was above the mean, in shares of capacity."""
    mine: InFlight = field(default_factory=InFlight)

    def heartbeat(self) -> Snapshot:
        states = tuple(
            ReplicaState(
                replica_id=str(index),
                url="http://127.0.0.1:1",
                phase=ReplicaPhase.READY,
                models=("demo",),
                capacity=CAPACITY,
                load=Load(in_flight=self.in_flight[index]),
                adapters=ADVERTISED,
                resident=frozenset(self.slots[index]),
            )
            for index in range(REPLICAS)
        )
        snapshot = Snapshot("e", 1, False, states)
        self.mine.observe(snapshot)
        return snapshot

    def begin(self, index: int, address: str) -> None:
        held = self.slots[index]
        self.loads += address not in held
        held[address] = None
        held.move_to_end(address)
        if len(held) > SLOTS:
            held.popitem(last=False)
        self.mine.start(str(index))
        self.in_flight[index] += 1
        self.served[index] += 1
        self.excess += (max(self.in_flight) - sum(self.in_flight) / REPLICAS) / CAPACITY

    def end(self, index: int) -> None:
        self.mine.finish(str(index))
        self.in_flight[index] -= 1


def simulate(choose: Choose, adapters: int, utilisation: float, seed: int) -> Fleet:
    """Poisson arrivals, exponential service times of mean 1."""
    fleet, traffic, now = Fleet(), Random(seed), 0.0
    popularity = [1 / rank for rank in range(1, adapters + 1)]
    snapshot = fleet.heartbeat()
    running: list[tuple[float, int]] = []
    for number in range(REQUESTS):
        now += traffic.expovariate(utilisation * CAPACITY * REPLICAS)
        adapter = traffic.choices(ADAPTERS[:adapters], popularity)[0]
        ends = now + traffic.expovariate(1)
        while running and running[0][0] <= now:
            fleet.end(heapq.heappop(running)[1])
        if number % HEARTBEAT_EVERY == 0:
            snapshot = fleet.heartbeat()
        index = choose(fleet, snapshot, adapter)
        fleet.begin(index, adapter.address)
        heapq.heappush(running, (ends, index))
    return fleet


def ours(seed: int) -> Choose:
    rng = Random(seed)

    def choose(fleet: Fleet, snapshot: Snapshot, adapter: AdapterRef) -> int:
        traffic = Traffic(unreported=fleet.mine.unreported)
        return int(pick(Target("demo", adapter), snapshot, rng, traffic).replica_id)

    return choose


def least_loaded(seed: int) -> Choose:
    """As good as that can be: it sees every replica as it is now."""
    rng = Random(seed)
    return lambda fleet, _, __: min(range(REPLICAS), key=lambda index: (fleet.in_flight[index], rng.random()))


@pytest.mark.parametrize("adapters", [REPLICAS * SLOTS, 4 * REPLICAS * SLOTS])
@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_adapters_are_loaded_far_less_often_and_the_work_stays_balanced(adapters: int, utilisation: float) -> None:
    near = simulate(ours(1), adapters, utilisation, seed=2)
    least = simulate(least_loaded(1), adapters, utilisation, seed=2)
    assert near.loads <= 0.7 * least.loads
    assert max(near.served) <= 1.25 * REQUESTS / REPLICAS
    assert near.excess / REQUESTS <= PickPolicy().spread
