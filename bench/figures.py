"""From answers to figures, and from rounds to a comparison."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.client import Answer

BARE, SWITCHBOARD = "bare", "switchboard"


@dataclass(frozen=True, slots=True)
class Figures:
    """One round at one server. Times in milliseconds; rates per second of the round's wall time."""

    requests: int
    errors: int
    seconds: float
    tokens_per_s: float
    requests_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float


METRICS = (
    "tokens_per_s",
    "requests_per_s",
    "ttft_p50_ms",
    "ttft_p99_ms",
    "inter_token_p50_ms",
    "inter_token_p99_ms",
)


@dataclass(frozen=True, slots=True)
class Round:
    """One server's turn in a round. `cpu_s` is the CPU time of each group of processes while it lasted."""

    streams: int
    number: int
    server: str
    figures: Figures
    faults: Mapping[str, int]
    cpu_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of one value per round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric at one number of streams: medians over the rounds, and Switchboard against bare round by round."""

    streams: int
    metric: str
    bare: float
    switchboard: float
    ratio: Spread
    added: Spread


def figures(answers: Sequence[Answer], tokens: int) -> Figures:
    """Of one round whose requests each asked for `tokens` tokens."""
    good = [answer for answer in answers if not fault_of(answer, tokens)]
    seconds = lasted(answers)
    ttft = [(answer.arrivals[0] - answer.sent) * 1000 for answer in good]
    gaps = [(later - earlier) * 1000 for answer in good for earlier, later in pairwise(answer.arrivals)]
    return Figures(
        requests=len(answers),
        errors=len(answers) - len(good),
        seconds=seconds,
        tokens_per_s=sum(answer.tokens for answer in good) / seconds,
        requests_per_s=len(good) / seconds,
        ttft_p50_ms=quantile(ttft, 0.50),
        ttft_p99_ms=quantile(ttft, 0.99),
        inter_token_p50_ms=quantile(gaps, 0.50),
        inter_token_p99_ms=quantile(gaps, 0.99),
    )


def lasted(answers: Sequence[Answer]) -> float:
    """Seconds from the first request to the last answer's end."""
    return max(answer.ended for answer in answers) - min(answer.sent for answer in answers)


def fault_of(answer: Answer, tokens: int) -> str:
    """Why an answer does not count; empty if it does."""
    if answer.fault:
        return answer.fault
    if answer.tokens != tokens:
        return f"{answer.tokens} tokens instead of {tokens}"
    return "" if answer.arrivals else "no token"


def faults(answers: Iterable[Answer], tokens: int) -> dict[str, int]:
    """Each kind of fault and how often it happened."""
    return tally(fault_of(answer, tokens) for answer in answers)


def tally(found: Iterable[str]) -> dict[str, int]:
    """How often each was found; what is empty is no fault."""
    return dict(Counter(filter(None, found)))


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which a `share` of the values lies, between two neighbours in proportion; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def compare(rounds: Sequence[Round]) -> list[Compared]:
    """Every metric at every number of streams."""
    return [
        _compared(pairs_at(rounds, streams), streams, metric)
        for streams in dict.fromkeys(one.streams for one in rounds)
        for metric in METRICS
    ]


def pairs_at(rounds: Sequence[Round], streams: int) -> list[tuple[Round, Round]]:
    """The two turns, bare and Switchboard, of each round."""
    turns = {(one.number, one.server): one for one in rounds if one.streams == streams}
    numbers = sorted({number for number, _ in turns})
    return [(turns[number, BARE], turns[number, SWITCHBOARD]) for number in numbers]


def _compared(pairs: Sequence[tuple[Round, Round]], streams: int, metric: str) -> Compared:
    bare = [getattr(one.figures, metric) for one, _ in pairs]
    switchboard = [getattr(other.figures, metric) for _, other in pairs]
    both = list(zip(bare, switchboard, strict=True))
    return Compared(
        streams=streams,
        metric=metric,
        bare=spread(bare).median,
        switchboard=spread(switchboard).median,
        ratio=spread(ours / theirs if theirs else math.nan for theirs, ours in both),
        added=spread(ours - theirs for theirs, ours in both),
    )


def spread(values: Iterable[float]) -> Spread:
    """Of the rounds that have a value; NaN where none has."""
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    return Spread(statistics.median(known), min(known), max(known))


def cpu_ms_per_request(rounds: Sequence[Round], streams: int, server: str) -> dict[str, float]:
    """What one request cost each group of processes, in CPU milliseconds: medians over the rounds."""
    turns = [one for one in rounds if one.streams == streams and one.server == server]
    return shared_out([(one.cpu_s, one.figures.requests) for one in turns])


def shared_out(turns: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """Of turns with each group's CPU seconds and a number of requests: milliseconds per request, medians over turns."""
    groups = dict.fromkeys(group for cpu_s, _ in turns for group in cpu_s)
    return {
        group: statistics.median(cpu_s.get(group, 0.0) * 1000 / requests for cpu_s, requests in turns)
        for group in groups
    }
