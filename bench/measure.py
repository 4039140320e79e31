"""Rounds of load, the servers in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.client import PATH, Answer, Body, ChatEvents, Connection, chat, post
from bench.cpu import CpuTime, Groups
from bench.figures import BARE, SWITCHBOARD, Round, faults, figures


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of each server. `rounds` holds for each number in `streams`."""

    model: str
    streams: tuple[int, ...] = (1, 8, 32)
    rounds: int = 6
    requests_per_stream: int = 24
    fewest_requests: int = 48
    tokens: int = 32
    settle_s: float = 1.5
    """Before a turn: vLLM's processes spin for a second after their last work (`SpinCondition` in vLLM's
    `shm_broadcast.py`), and the other server's must not do so on this one's time."""

    def requests(self, streams: int) -> int:
        """How many a server gets in one round."""
        return max(self.fewest_requests, streams * self.requests_per_stream)


def order(names: Sequence[str], number: int) -> list[str]:
    """Who follows whom in a round (1, 2, …). Each is first in turn: a slow drift of the machine falls on all."""
    first = (number - 1) % len(names)
    return [*names[first:], *names[:first]]


async def measure(
    plan: Plan, ports: Mapping[str, int], groups: Callable[[], Groups], say: Callable[[Round], None]
) -> list[Round]:
    """Every round at every number of streams. `ports` has both servers by name; `say` hears each turn's end."""
    cpu = CpuTime(groups)
    rounds: list[Round] = []
    for streams in plan.streams:
        with opened(ports, streams) as connections:
            for number in range(1, plan.rounds + 1):
                for name in order((BARE, SWITCHBOARD), number):
                    rounds.append(await _turn(plan, streams, number, name, connections[name], cpu))
                    say(rounds[-1])
    return rounds


@contextmanager
def opened(
    ports: Mapping[str, int], count: int, body: Callable[[], Body] = ChatEvents
) -> Iterator[dict[str, list[Connection]]]:
    """`count` connections to each server, closed at the end."""
    connections = {name: [Connection(port, body) for _ in range(count)] for name, port in ports.items()}
    try:
        yield connections
    finally:
        for connection in (one for group in connections.values() for one in group):
            connection.close()


async def _turn(
    plan: Plan, streams: int, number: int, name: str, connections: Sequence[Connection], cpu: CpuTime
) -> Round:
    await asyncio.sleep(plan.settle_s)
    # Opens the connections and wakes threads that slept while the other server had its turn. Every round asks its own
    # questions, and of both servers the same.
    topic = f"{streams} streams, round {number}"
    await load(connections, _requests(plan, f"Before {topic}", streams * 2))
    cpu.restart()
    answers = await load(connections, _requests(plan, topic, plan.requests(streams)))
    return Round(streams, number, name, figures(answers, plan.tokens), faults(answers, plan.tokens), cpu.used())


def _requests(plan: Plan, topic: str, number: int) -> list[bytes]:
    numbers = range(1, number + 1)
    return [post(PATH, chat(plan.model, f"{topic}, question {n}: when are you open?", plan.tokens)) for n in numbers]


async def load(connections: Sequence[Connection], requests: Iterable[bytes]) -> list[Answer]:
    """Ask everything, on each connection one request after the other. Answers are in the order of their ends."""
    waiting = iter(requests)
    answers: list[Answer] = []

    async def stream(connection: Connection) -> None:
        for request in waiting:
            answers.append(await connection.ask(request))

    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(stream(connection))
    return answers
