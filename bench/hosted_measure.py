"""Rounds of the hosted-model benchmark: every contestant in turn, each for a bounded time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product, repeat

import psutil

from bench.client import PATH, Connection, KnownText, post
from bench.cpu import CpuTime, Groups
from bench.figures import tally
from bench.hosted_figures import Scene, Turn, hosted_figures
from bench.measure import load, opened, order
from bench.upstream import MODEL, STREAMED_TEXT, WHOLE_TEXT


@dataclass(frozen=True, slots=True)
class HostedPlan:
    """What is asked of each contestant. A turn ends after `requests` or `turn_s`, whichever is first."""

    clients: tuple[int, ...] = (1, 32)
    rounds: int = 5
    requests: int = 2000
    turn_s: float = 3.0
    warm_s: float = 0.5
    """Asked before each turn and not measured."""
    first_warm_s: float = 2.0
    """The same before a scene's first turn: Node compiles what is used often, and connections are opened."""
    settle_s: float = 0.2

    def scenes(self) -> list[Scene]:
        return [Scene(clients, streamed) for streamed, clients in product((False, True), self.clients)]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who is asked: at which port, with which headers. `groups` names its processes as they are at the moment."""

    name: str
    port: int
    groups: Callable[[], Groups]
    headers: Mapping[str, str]

    def request(self, scene: Scene) -> bytes:
        question = {"role": "user", "content": "When are you open?"}
        return post(PATH, {"model": MODEL, "messages": [question], "stream": scene.streamed}, self.headers)

    def cpu_s(self, used: Mapping[str, float]) -> float:
        """Its own part of the CPU time; NaN where it has no process of its own."""
        return sum(used[group] for group in groups) if (groups := self.groups()) else math.nan

    def rss_mib(self) -> float:
        """The memory of all its processes; what several share counts for each. NaN without a process."""
        processes = [process for group in self.groups().values() for process in group]
        return sum(_rss(process) for process in processes) / 2**20 if processes else math.nan


async def measure_hosted(
    plan: HostedPlan, contestants: Sequence[Contestant], groups: Callable[[], Groups], say: Callable[[Turn], None]
) -> list[Turn]:
    """Every round of every scene. `groups` has every process with a part in the run; `say` hears each turn's end."""
    cpu = CpuTime(groups)
    ports = {one.name: one.port for one in contestants}
    by_name = {one.name: one for one in contestants}
    turns: list[Turn] = []
    for scene in plan.scenes():
        text = STREAMED_TEXT if scene.streamed else WHOLE_TEXT
        with opened(ports, scene.clients, partial(KnownText, text, streamed=scene.streamed)) as connections:
            for number in range(1, plan.rounds + 1):
                for name in order(list(ports), number):
                    turns.append(await _turn(plan, scene, number, by_name[name], connections[name], cpu))
                    say(turns[-1])
    return turns


async def _turn(
    plan: HostedPlan,
    scene: Scene,
    number: int,
    contestant: Contestant,
    connections: Sequence[Connection],
    cpu: CpuTime,
) -> Turn:
    await asyncio.sleep(plan.settle_s)
    request = contestant.request(scene)
    warm_s = plan.first_warm_s if number == 1 else plan.warm_s
    await load(connections, for_at_most(warm_s, repeat(request)))
    cpu.restart()
    answers = await load(connections, for_at_most(plan.turn_s, repeat(request, plan.requests)))
    used = cpu.used()
    figures = hosted_figures(answers, contestant.cpu_s(used), contestant.rss_mib())
    faults = tally(answer.fault for answer in answers)
    return Turn(scene, number, contestant.name, figures, faults, used)


def for_at_most(seconds: float, requests: Iterable[bytes]) -> Iterator[bytes]:
    """The requests, until the time from the first one on is over."""
    ends: float | None = None
    for request in requests:
        now = time.perf_counter()
        ends = now + seconds if ends is None else ends
        if now > ends:
            return
        yield request


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
