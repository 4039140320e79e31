from __future__ import annotations

import os
from itertools import islice

import psutil
import pytest

from bench.client import Connection
from bench.cpu import ELSE, CpuTime
from bench.figures import BARE, SWITCHBOARD
from bench.measure import Plan, load, measure, order
from tests.bench.sse_server import answering, stream
from tests.bench.test_client import REQUEST, WHOLE


def test_the_servers_take_turns_at_being_first() -> None:
    assert [order("abc", number) for number in range(1, 5)] == [list(text) for text in ("abc", "bca", "cab", "abc")]


@pytest.mark.parametrize(("streams", "requests"), [(1, 48), (8, 192), (32, 768)])
def test_a_round_is_long_enough_for_one_stream_and_bounded_for_many(streams: int, requests: int) -> None:
    assert Plan("demo").requests(streams) == requests


async def test_load_asks_everything_once_and_keeps_its_connections() -> None:
    async with answering(*[[stream(WHOLE)]] * 12) as (port, requests):
        connections = [Connection(port) for _ in range(3)]
        answers = await load(connections, [REQUEST] * 12)
        for connection in connections:
            connection.close()
        assert (len(requests), sum(requests)) == (3, 12)
    assert [answer.fault for answer in answers] == [""] * 12


async def test_every_round_has_a_turn_of_each_server_at_each_number_of_streams() -> None:
    plan = Plan("demo", streams=(1, 2), rounds=2, requests_per_stream=2, fewest_requests=3, tokens=4, settle_s=0)
    asked = [plan.requests(streams) + streams * 2 for streams in plan.streams for _ in range(plan.rounds)]
    answers = [[stream(WHOLE)]] * sum(asked)
    heard: list[str] = []
    async with answering(*answers) as (bare, _), answering(*answers) as (ours, _):
        ports = {BARE: bare, SWITCHBOARD: ours}
        rounds = await measure(plan, ports, dict, lambda turn: heard.append(turn.server))
    assert heard == [BARE, SWITCHBOARD, SWITCHBOARD, BARE] * 2
    assert [(one.streams, one.number) for one in islice(rounds, 0, None, 2)] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {(one.figures.requests, one.figures.errors) for one in rounds} == {(3, 0), (4, 0)}


def test_cpu_time_is_counted_for_the_groups_alone() -> None:
    me = psutil.Process(os.getpid())
    clock = CpuTime(lambda: {"me": [me]})
    clock.restart()
    before = sum(me.cpu_times()[:2])
    while (spent := sum(me.cpu_times()[:2]) - before) < 0.05:
        pass
    used = clock.used()
    assert set(used) == {"me", ELSE}
    assert used["me"] >= spent
