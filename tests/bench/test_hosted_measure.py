from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat

import psutil
import pytest
import uvloop

from bench.client import HOST, NO_END, PATH, Answer, Connection, KnownText, chat, post
from bench.hosted_figures import Scene
from bench.hosted_measure import Contestant, HostedPlan, for_at_most, measure_hosted
from bench.upstream import STREAMED_TEXT, WHOLE_TEXT, Upstream, completion, events
from tests.bench.sse_server import answering, stream

PLAN = HostedPlan(clients=(1, 2), rounds=2, requests=4, turn_s=60.0, warm_s=0.0, first_warm_s=0.0, settle_s=0.0)


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Upstream, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def contestant(name: str, port: int) -> Contestant:
    return Contestant(name, port, dict, {"x-asked": name})


def test_a_stream_has_33_events_and_a_whole_answer_a_few_hundred_bytes() -> None:
    assert len(events()) == 33
    assert 200 <= len(completion()) <= 300


async def test_the_upstream_answers_as_it_is_asked_and_keeps_the_connection() -> None:
    async with upstream() as port:
        for streamed, text in ((False, WHOLE_TEXT), (True, STREAMED_TEXT)):
            connection = Connection(port, partial(KnownText, text, streamed=streamed))
            request = contestant("direct", port).request(Scene(1, streamed))
            answers = [await connection.ask(request) for _ in range(3)]
            connection.close()
            assert [answer.fault for answer in answers] == [""] * 3


def test_the_upstream_runs_on_its_own_loop() -> None:
    async def answer() -> Answer:
        async with upstream() as port:
            connection = Connection(port, partial(KnownText, WHOLE_TEXT, streamed=False))
            given = await connection.ask(contestant("direct", port).request(Scene(1, streamed=False)))
            connection.close()
            return given

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(answer()).fault == ""


async def test_every_contestant_has_a_turn_in_each_round_and_each_is_first_in_turn() -> None:
    heard: list[str] = []
    async with upstream() as port:
        three = [contestant(name, port) for name in ("direct", "switchboard", "litellm")]
        turns = await measure_hosted(PLAN, three, dict, lambda turn: heard.append(turn.contestant))
    assert heard == ["direct", "switchboard", "litellm", "switchboard", "litellm", "direct"] * 4
    assert {(turn.figures.requests, turn.figures.errors) for turn in turns} == {(4, 0)}
    assert [turn.scene for turn in turns[::6]] == PLAN.scenes()


async def test_an_answer_with_another_text_is_an_error() -> None:
    wrong = stream([b'{"choices":[{"message":{"content":"We are closed."}}]}'])
    plan = HostedPlan(clients=(1,), rounds=1, requests=2, warm_s=0.0, first_warm_s=0.0, settle_s=0.0)
    # Per scene one request to warm up and two that count.
    async with answering(*[[wrong]] * 6) as (port, _):
        turns = await measure_hosted(plan, [contestant("direct", port)], dict, lambda turn: None)
    assert [turn.figures.errors for turn in turns] == [2, 2]
    assert [turn.faults for turn in turns] == [{"another text: 'We are closed.'": 2}, {NO_END: 2}]


def test_a_turn_ends_after_its_requests_or_its_time() -> None:
    assert list(for_at_most(60.0, repeat(b"x", 3))) == [b"x"] * 3
    assert list(for_at_most(-1.0, repeat(b"x"))) == []


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([b'data: {"content": "a", "role": "assistant"}\n\nda', b'ta: {"content":"b"}\n\ndata: [DONE]\n\n'], ""),
        ([b'data: {"content":"ab"}\n\n'], NO_END),
        ([b'data: {"content":"b"}\n\ndata: [DONE]\n\n'], "another text: 'b'"),
        ([b'data: {"content":"a"}\n\ndata: {"error":{}}\n\ndata: [DONE]\n\n'], "another text: 'a'"),
        ([], NO_END),
    ],
)
def test_a_known_text_is_found_however_a_gateway_writes_it(pieces: list[bytes], fault: str) -> None:
    body = KnownText("ab", streamed=True)
    for piece in pieces:
        body.feed(piece)
    assert body.fault == fault


def test_headers_are_sent_with_the_request() -> None:
    head = post(PATH, chat("demo", "Hello", 3), {"x-one": "1"}).partition(b"\r\n\r\n")[0]
    assert head.split(b"\r\n")[-1] == b"x-one: 1"


def test_cpu_time_and_memory_are_those_of_its_own_processes() -> None:
    me = psutil.Process(os.getpid())
    ours = Contestant("switchboard", 1, lambda: {"switchboard: routers": [me], "switchboard: manager": []}, {})
    used = {"switchboard: routers": 1.0, "switchboard: manager": 0.5, "client": 4.0}
    assert ours.cpu_s(used) == pytest.approx(1.5)
    assert ours.rss_mib() > 1
    assert math.isnan(contestant("direct", 1).cpu_s(used))
    assert math.isnan(contestant("direct", 1).rss_mib())
