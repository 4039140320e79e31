"""The result of a run of the hosted-model benchmark: a table for the terminal, JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.figures import SWITCHBOARD, Spread, shared_out
from bench.hosted_figures import (
    ADDED,
    AIMS,
    DIRECT,
    METRICS,
    NAMES,
    Aim,
    Scene,
    Turn,
    contestants,
    ratio,
    scenes,
    values,
)
from bench.hosted_measure import HostedPlan
from bench.report import dumped, environment, in_range, word

DISTRIBUTIONS = ("ray", "uvloop", "openai")
FORMS = {"per_s": ".0f", "p50_ms": ".2f", "p99_ms": ".2f", ADDED: "+.2f", "cpu_ms": ".2f", "rss_mib": ".0f"}
LABELS = {
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    ADDED: "added p50, ms",
    "cpu_ms": "CPU time a request, ms",
    "rss_mib": "memory (RSS), MiB",
}
COMPARED = ("per_s", "p50_ms", "cpu_ms", "rss_mib")
"""What is given as a ratio to each peer's."""


@dataclass(frozen=True, slots=True)
class Result:
    """A run. `left_out` says why, by the peer's name; `versions` are the other gateways'."""

    plan: HostedPlan
    turns: Sequence[Turn]
    versions: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def errors(self) -> int:
        return sum(turn.figures.errors for turn in self.turns)


def label(metric: str, scene: Scene) -> str:
    """What the table and the plot call a metric."""
    return LABELS.get(metric) or ("streams/s" if scene.streamed else "requests/s")


def hosted_json(result: Result) -> str:
    """All of it."""
    turns = result.turns
    return dumped(
        {
            "environment": environment(DISTRIBUTIONS) | dict(result.versions),
            "plan": asdict(result.plan),
            "left_out": dict(result.left_out),
            "compared": [
                {
                    "scene": asdict(scene),
                    "metric": metric,
                    "values": {name: asdict(values(turns, scene, name, metric)) for name in contestants(turns)},
                    "ratios": {peer: asdict(ratio(turns, scene, metric, peer)) for peer in _peers(turns)},
                }
                for scene in scenes(turns)
                for metric in METRICS
            ],
            "aims": [asdict(aim) | {"got": asdict(aim.got(turns))} for aim in AIMS],
            "turns": [asdict(turn) for turn in turns],
        }
    )


def hosted_table(result: Result) -> str:
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    known = environment(DISTRIBUTIONS) | {NAMES[name]: version for name, version in result.versions.items()}
    yield ", ".join(f"{name} {value}" for name, value in known.items())
    yield f"{result.plan.rounds} rounds; medians over the rounds, lowest and highest in brackets, ratios round by round"
    for name, why in result.left_out.items():
        yield f"{NAMES[name]} is left out: {why}"
    for scene in scenes(result.turns):
        yield ""
        yield from _scene_lines(scene, result.turns)
    yield ""
    yield from _aim_lines(result.turns)
    yield from _fault_lines(result.turns)


def _scene_lines(scene: Scene, turns: Sequence[Turn]) -> Iterator[str]:
    names = contestants(turns)
    yield f"{scene!s:<28}" + "".join(f"{NAMES[name]:>26}" for name in names)
    for metric in METRICS:
        cells = [_cell(values(turns, scene, name, metric), FORMS[metric]) for name in names]
        yield f"  {label(metric, scene):<26}" + "".join(f"{cell:>26}" for cell in cells)
    errors = [
        sum(one.figures.errors for one in turns if (one.scene, one.contestant) == (scene, name)) for name in names
    ]
    yield f"  {'errors':<26}" + "".join(f"{count:>26}" for count in errors)
    for peer in _peers(turns):
        ratios = [f"{label(metric, scene)} {_cell(ratio(turns, scene, metric, peer), '.2f')}" for metric in COMPARED]
        yield f"  Switchboard ÷ {NAMES[peer]}: {'; '.join(ratios)}"
    yield from _cpu_lines([one for one in turns if (one.scene, one.contestant) == (scene, SWITCHBOARD)])


def _cpu_lines(turns: Sequence[Turn]) -> Iterator[str]:
    """Where a request through Switchboard costs CPU time; what other gateways use meanwhile is left out."""
    if not turns:
        return
    shares = shared_out([(one.cpu_s, one.figures.requests) for one in turns])
    parts = [f"{group} {ms:.2f}" for group, ms in shares.items() if group not in NAMES]
    yield f"  CPU time of a request through Switchboard, ms: {', '.join(parts)}"


def _aim_lines(turns: Sequence[Turn]) -> Iterator[str]:
    for aim in AIMS:
        got = aim.got(turns)
        if math.isnan(got.median):
            yield f"{_aimed(aim)}: not measured"
        else:
            yield f"{_aimed(aim)}: {in_range(got, '.2f')}: {word(aim.is_met(got))}"


def _aimed(aim: Aim) -> str:
    what = label(aim.metric, aim.scene)
    if aim.peer is None:
        return f"{aim.scene}: {what}, aim at most {aim.bound:g}"
    return f"{aim.scene}: {what} ÷ {NAMES[aim.peer]}, aim at least {aim.bound:g}"


def _fault_lines(turns: Sequence[Turn]) -> Iterator[str]:
    for turn in turns:
        for fault, times in turn.faults.items():
            yield f"{turn.scene}, round {turn.number}, {NAMES[turn.contestant]}: {times} × {fault}"


def _peers(turns: Sequence[Turn]) -> list[str]:
    """Whom Switchboard is compared with."""
    names = contestants(turns)
    return [name for name in names if name not in (DIRECT, SWITCHBOARD)] if SWITCHBOARD in names else []


def _cell(found: Spread, form: str) -> str:
    if math.isnan(found.median):
        return "–"
    return f"{found.median:{form}} ({found.low:{form}}–{found.high:{form}})"


def hosted_progress(turn: Turn, rounds: int) -> str:
    """The line that a turn ends with."""
    figures = turn.figures
    return (
        f"{turn.scene}, round {turn.number} of {rounds}, {NAMES[turn.contestant]}: {figures.per_s:.0f}/s,"
        f" p50 {figures.p50_ms:.2f} ms" + (f", {figures.errors} ERRORS" if figures.errors else "")
    )
