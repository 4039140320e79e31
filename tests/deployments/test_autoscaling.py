from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.autoscaling import LOAD_METRIC, ByLoad


def wanted(target: float, loads: list[float] | None, queued: float = 0, least: int = 1, most: int = 10) -> int:
    reported = None if loads is None else {LOAD_METRIC: {f"replica-{n}": load for n, load in enumerate(loads)}}
    context: Any = SimpleNamespace(
        aggregated_metrics=reported,
        total_num_requests=queued,
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=most,
    )
    replicas, state = ByLoad(target)(context)
    assert state == {}
    return replicas


@pytest.mark.parametrize(
    ("loads", "replicas"),
    [
        (None, 1),
        ([], 1),
        ([0], 1),
        ([8], 1),
        ([9], 2),
        ([8, 8], 2),
        ([8, 9], 3),
        ([0, 0, 0], 1),
        ([0.5], 1),
        ([800], 10),
    ],
)
def test_eight_requests_for_each_replica(loads: list[float] | None, replicas: int) -> None:
    assert wanted(8, loads) == replicas


def test_none_while_nobody_asks() -> None:
    assert wanted(8, [0], least=0) == 0


def test_a_call_that_waits_for_the_first_replica_starts_one() -> None:
    assert wanted(8, None, queued=1, least=0) == 1


def test_other_metrics_do_not_count() -> None:
    context: Any = SimpleNamespace(
        aggregated_metrics={"other": {"one": 100.0}},
        total_num_requests=0,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=10,
    )
    assert ByLoad(8)(context) == (1, {})
