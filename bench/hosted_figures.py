"""The hosted-model benchmark's figures: of each turn, and of the contestants against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import override

from bench.client import Answer
from bench.figures import SWITCHBOARD, Spread, lasted, quantile, spread

DIRECT, LITELLM, PORTKEY = "direct", "litellm", "portkey"
NAMES = {DIRECT: "direct", SWITCHBOARD: "Switchboard", LITELLM: "LiteLLM", PORTKEY: "Portkey"}
ADDED = "added_p50_ms"
METRICS = ("per_s", "p50_ms", "p99_ms", ADDED, "cpu_ms", "rss_mib")


@dataclass(frozen=True, slots=True)
class Scene:
    """How it is asked: by so many clients at once, for streams or whole answers."""

    clients: int
    streamed: bool

    @override
    def __str__(self) -> str:
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{clients}, {'streams' if self.streamed else 'whole answers'}"


@dataclass(frozen=True, slots=True)
class HostedFigures:
    """One turn. `cpu_ms` is a request's share of the contestant's own CPU time, `rss_mib` its memory at the end."""

    requests: int
    errors: int
    seconds: float
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's turn in a round. `cpu_s` is the CPU time of each group of processes while it lasted."""

    scene: Scene
    number: int
    contestant: str
    figures: HostedFigures
    faults: Mapping[str, int]
    cpu_s: Mapping[str, float]


def hosted_figures(answers: Sequence[Answer], cpu_s: float, rss_mib: float) -> HostedFigures:
    """Of one turn, in which the contestant used `cpu_s`."""
    good = [(answer.ended - answer.sent) * 1000 for answer in answers if not answer.fault]
    seconds = lasted(answers)
    return HostedFigures(
        requests=len(answers),
        errors=len(answers) - len(good),
        seconds=seconds,
        per_s=len(good) / seconds,
        p50_ms=quantile(good, 0.50),
        p99_ms=quantile(good, 0.99),
        cpu_ms=cpu_s * 1000 / len(answers),
        rss_mib=rss_mib,
    )


@dataclass(frozen=True, slots=True)
class Aim:
    """Switchboard's metric is to be `bound` at least as a multiple of a peer's; without a peer, `bound` at most."""

    scene: Scene
    metric: str
    bound: float
    peer: str | None = None

    def got(self, turns: Sequence[Turn]) -> Spread:
        """What was measured; NaN where it was not."""
        if self.peer is None:
            return values(turns, self.scene, SWITCHBOARD, self.metric)
        return ratio(turns, self.scene, self.metric, self.peer)

    def is_met(self, got: Spread) -> bool:
        return got.median <= self.bound if self.peer is None else got.median >= self.bound


AIMS = (
    Aim(Scene(32, streamed=False), "per_s", 15.0, LITELLM),
    Aim(Scene(32, streamed=False), "per_s", 2.0, PORTKEY),
    Aim(Scene(32, streamed=True), "per_s", 30.0, LITELLM),
    Aim(Scene(1, streamed=False), ADDED, 1.2),
)


def scenes(turns: Sequence[Turn]) -> list[Scene]:
    return list(dict.fromkeys(turn.scene for turn in turns))


def contestants(turns: Sequence[Turn]) -> list[str]:
    """Those that took part, in the table's order."""
    seen = {turn.contestant for turn in turns}
    return [name for name in NAMES if name in seen]


def per_round(turns: Sequence[Turn], scene: Scene, contestant: str, metric: str) -> dict[int, float]:
    """A metric in each round."""
    if metric == ADDED:
        return {} if contestant == DIRECT else _both(turns, scene, "p50_ms", contestant, DIRECT, lambda a, b: a - b)
    return {
        turn.number: float(getattr(turn.figures, metric))
        for turn in turns
        if (turn.scene, turn.contestant) == (scene, contestant)
    }


def values(turns: Sequence[Turn], scene: Scene, contestant: str, metric: str) -> Spread:
    return spread(per_round(turns, scene, contestant, metric).values())


def ratio(turns: Sequence[Turn], scene: Scene, metric: str, peer: str) -> Spread:
    """Switchboard ÷ a peer, round by round."""
    return spread(_both(turns, scene, metric, SWITCHBOARD, peer, lambda a, b: a / b if b else math.nan).values())


def _both(
    turns: Sequence[Turn], scene: Scene, metric: str, one: str, other: str, of: Callable[[float, float], float]
) -> dict[int, float]:
    ones, others = (per_round(turns, scene, name, metric) for name in (one, other))
    return {number: of(ones[number], others[number]) for number in ones if number in others}
