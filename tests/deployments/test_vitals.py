from __future__ import annotations

import asyncio

import pytest

from deployments.vitals import Vitals
from serve.schemas import ReplicaPhase


@pytest.fixture
def vitals() -> Vitals:
    vitals = Vitals()
    vitals.phase = ReplicaPhase.READY
    return vitals


def test_a_check_that_fails_has_the_replica_left_out_until_one_does_not(vitals: Vitals) -> None:
    with pytest.raises(TimeoutError), vitals.examined():
        raise TimeoutError("the engine says nothing")
    assert (vitals.shown, vitals.phase) == (ReplicaPhase.DRAINING, ReplicaPhase.READY)
    with vitals.examined():
        pass
    assert (vitals.shown, vitals.phase) == (ReplicaPhase.READY, ReplicaPhase.READY)


@pytest.mark.parametrize("phase", [ReplicaPhase.STARTING, ReplicaPhase.DRAINING])
def test_who_is_well_is_in_the_phase_of_its_life(vitals: Vitals, phase: ReplicaPhase) -> None:
    vitals.phase = phase
    with vitals.examined():
        pass
    assert vitals.shown is phase


async def test_it_is_ill_without_a_task_that_it_cannot_do_without(vitals: Vitals) -> None:
    async def fails() -> None:
        raise KeyError("not foreseen")

    task = asyncio.create_task(fails())
    vitals.watch("heartbeat", task)
    with vitals.examined():
        pass
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="the heartbeat has ended") as caught, vitals.examined():
        pytest.fail("no check is needed")
    assert isinstance(caught.value.__cause__, KeyError)
    assert vitals.shown is ReplicaPhase.DRAINING


async def test_also_if_the_task_was_cancelled(vitals: Vitals) -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    vitals.watch("heartbeat", task)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(RuntimeError, match="the heartbeat has ended"), vitals.examined():
        pytest.fail("no check is needed")
    assert vitals.shown is ReplicaPhase.DRAINING


async def test_also_if_the_task_has_simply_ended(vitals: Vitals) -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    vitals.watch("HTTP server", task)
    await task
    with pytest.raises(RuntimeError, match="the HTTP server has ended"), vitals.examined():
        pytest.fail("no check is needed")
