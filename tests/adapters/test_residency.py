"""What `LeasedCache` does by itself has its tests there; here is what adapters add."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.residency import Residency, ResidencyLimits
from serve.errors import AdapterUnusable, SwitchboardError, Unavailable
from serve.schemas import AdapterRef

A, B, C = (AdapterRef("demo", name, "0123456789ab") for name in "abc")
HERE = Path("/nowhere")


class Engine:
    """Holds two adapters and no more. `broken` says how a load fails, by name."""

    def __init__(self) -> None:
        self.slots = 2
        self.loaded: list[AdapterRef] = []
        self.loads: list[str] = []
        self.broken: dict[str, SwitchboardError] = {}
        self.now = 0.0

    async def load(self, ref: AdapterRef, path: Path) -> None:
        assert path == HERE
        self.loads.append(ref.name)
        self.now += 1.5
        if ref.name in self.broken:
            raise self.broken[ref.name]
        self.loaded.append(ref)
        assert len(self.loaded) <= self.slots

    async def unload(self, ref: AdapterRef) -> None:
        self.loaded.remove(ref)


class Seen:
    def __init__(self) -> None:
        self.events: list[object] = []

    def loaded(self, ref: AdapterRef, seconds: float) -> None:
        self.events.append(("loaded", ref.name, seconds))

    def failed(self, ref: AdapterRef) -> None:
        self.events.append(("failed", ref.name))

    def evicted(self, ref: AdapterRef) -> None:
        self.events.append(("evicted", ref.name))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def residency(engine: Engine, seen: Seen) -> Residency:
    limits = ResidencyLimits(wait_s=0, retry_after_s=3, negative_cache_s=30)
    return Residency(engine.slots, engine.load, engine.unload, limits, seen, clock=lambda: engine.now)


async def touch(residency: Residency, *refs: AdapterRef) -> None:
    for ref in refs:
        async with residency.lease(ref, HERE):
            pass


async def test_adapters_come_and_really_go(engine: Engine, residency: Residency, seen: Seen) -> None:
    await touch(residency, A, B, A, C)
    assert residency.resident() == {A.address, C.address}
    assert engine.loaded == [A, C]
    assert seen.events == [("loaded", "a", 1.5), ("loaded", "b", 1.5), ("evicted", "b"), ("loaded", "c", 1.5)]


async def test_a_version_is_known_by_its_address_and_not_its_label(engine: Engine, residency: Residency) -> None:
    await touch(residency, A, AdapterRef(A.model, A.name, A.digest, "stable"))
    assert engine.loads == ["a"]


async def test_every_slot_in_use(residency: Residency) -> None:
    async with residency.lease(A, HERE), residency.lease(B, HERE):
        with pytest.raises(Unavailable) as caught:
            await touch(residency, C)
    assert caught.value.retry_after_s == 3
    await touch(residency, C)


async def test_a_failure_is_answered_from_memory_for_a_while(engine: Engine, residency: Residency, seen: Seen) -> None:
    engine.broken["b"] = AdapterUnusable("It does not fit.", "model")
    await touch(residency, A)
    for _ in range(3):
        with pytest.raises(AdapterUnusable, match="It does not fit") as caught:
            await touch(residency, B)
        assert caught.value.param == "model"
    assert engine.loads == ["a", "b"]
    assert seen.events == [("loaded", "a", 1.5), ("failed", "b")]
    assert residency.resident() == {A.address}

    del engine.broken["b"]
    engine.now += 30
    await touch(residency, B)
    assert residency.resident() == {A.address, B.address}


async def test_the_memory_of_failures_is_bounded(engine: Engine, residency: Residency) -> None:
    refs = [AdapterRef("demo", str(number), "0123456789ab") for number in range(1025)]
    engine.broken = {ref.name: AdapterUnusable("It does not fit.") for ref in refs}
    for ref in (*refs, refs[-1], refs[0]):
        with pytest.raises(AdapterUnusable):
            await touch(residency, ref)
    assert engine.loads.count(refs[-1].name) == 1
    assert engine.loads.count(refs[0].name) == 2  # the oldest was forgotten
