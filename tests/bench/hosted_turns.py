"""Made-up turns of the hosted-model benchmark."""

from __future__ import annotations

from collections.abc import Mapping

from bench.figures import SWITCHBOARD
from bench.hosted_figures import DIRECT, LITELLM, PORTKEY, HostedFigures, Scene, Turn
from bench.hosted_measure import HostedPlan

PLAN = HostedPlan(rounds=2)
RATES = {DIRECT: 9000.0, SWITCHBOARD: 2000.0, LITELLM: 100.0, PORTKEY: 800.0}
FAST = {**RATES, SWITCHBOARD: 3000.0}


def turn(scene: Scene, number: int, name: str, rate: float, p50_ms: float = 1.0, errors: int = 0) -> Turn:
    figures = HostedFigures(100, errors, 1.0, rate, p50_ms, p50_ms * 2, 1000 / rate, 100.0)
    faults = {"status 500: no": errors} if errors else {}
    cpu_s = {"client": 0.01, f"{name}: routers": 0.2, "litellm": 0.5}
    return Turn(scene, number, name, figures, faults, cpu_s)


def turns(rates: Mapping[str, float] = RATES, added_ms: float = 1.0, errors: int = 0) -> list[Turn]:
    """Two rounds of every scene; each contestant but the upstream adds `added_ms`."""
    return [
        turn(scene, number, name, rate, 0.2 + (0 if name == DIRECT else added_ms), 0 if name == DIRECT else errors)
        for scene in PLAN.scenes()
        for number in (1, 2)
        for name, rate in rates.items()
    ]
