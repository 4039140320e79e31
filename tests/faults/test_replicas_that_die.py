"""A replica, or its engine, ends while it is asked (FAULTS 34, 36): nothing is lost but streams that had begun."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import psutil
import pytest

from tests.live.asking import CHAT, Answer, Client, Stream
from tests.live.eventually import eventually
from tests.live.processes import alive, engine, with_children
from tests.live.running import Switchboard
from tests.live.watching import BACK_S, idle, live, long_body, whole

pytestmark = pytest.mark.engine

STREAMS = 8
AT_ONCE = 8
"""With the streams that go on, no more than what one replica accepts."""
AT_ONCE_S = 5.0
GONE_S = 30.0
SILENT_S = 60.0
"""Until an engine that says nothing is taken out of the routers' view."""


@pytest.mark.parametrize("what", ["replica", "engine"])
async def test_killed_under_load(client: Client, switchboard: Switchboard, what: str) -> None:
    ids = await whole(client, switchboard)
    await idle(client)
    enough = asyncio.Event()
    families = {replica: with_children(process) for replica, process in ids.items()}
    targets = {replica: process if what == "replica" else engine(process) for replica, process in ids.items()}
    async with AsyncExitStack() as stack:

        async def begun() -> Stream:
            stream = await stack.enter_async_context(client.stream(CHAT, long_body()))
            assert await stream.event()
            return stream

        opening = [asyncio.create_task(begun()) for _ in range(STREAMS)]
        asking = [asyncio.create_task(_keep_asking(client, enough)) for _ in range(AT_ONCE)]
        # At the first word of any: whatever has begun at its replica is then far from its end.
        (first, *_), _ = await asyncio.wait(opening, return_when=asyncio.FIRST_COMPLETED)
        victim = first.result().replica
        targets[victim].kill()

        for stream in await asyncio.gather(*opening):
            await _check_end(stream, broken=stream.replica == victim)
    await eventually(lambda: _out_of_view(client), SILENT_S, "the routers do not count it any more")
    enough.set()
    answers = [answer for answers in await asyncio.gather(*asking) for answer in answers]
    assert [answer.body for answer in answers if answer.status != 200] == []
    assert answers[-1].replica != victim

    again = await _back(client, switchboard)
    assert victim not in again
    assert alive(families[victim]) == []


async def test_an_engine_that_only_stands_still_is_replaced(client: Client, switchboard: Switchboard) -> None:
    ids = await whole(client, switchboard)
    await idle(client)
    victim, replica = next(iter(ids.items()))
    processes = with_children(replica)
    for process in with_children(engine(replica)):
        process.send_signal(signal.SIGSTOP)

    await eventually(lambda: _out_of_view(client), SILENT_S, "the routers do not count it any more")
    answers = await asyncio.gather(*(client.chat("demo", "Hello", max_tokens=8) for _ in range(AT_ONCE)))
    assert {(answer.status, answer.replica == victim) for answer in answers} == {(200, False)}

    again = await _back(client, switchboard)
    assert victim not in again

    async def ended() -> bool:
        return not alive(processes)

    await eventually(ended, GONE_S, "the processes of the replica that stood still are gone")


async def test_with_no_replica_left_the_answer_is_an_early_no_until_there_is_one(
    client: Client, switchboard: Switchboard
) -> None:
    ((old, replica),) = (await switchboard.replicas("LocalManager-outside")).items()
    assert (await client.chat("outside", "hello")).status == 200
    replica.kill()

    async def served() -> bool:
        async with asyncio.timeout(AT_ONCE_S):
            answer = await client.chat("outside", "hello")
        if answer.status == 200:
            return answer.replica != old
        if answer.status == 500:
            # Its last connections break an instant before its port closes: that looks like an engine that failed.
            return False
        assert (answer.status, answer.json["error"]["code"]) == (503, "service_unavailable"), answer.body
        assert int(answer.headers["retry-after"]) >= 1
        return False

    await eventually(served, BACK_S, "a new replica answers")


async def _keep_asking(client: Client, enough: asyncio.Event) -> list[Answer]:
    """One request after the other."""
    answers = []
    while not enough.is_set():
        answers.append(await client.chat("demo", "Hello", max_tokens=8))
    return answers


async def _out_of_view(client: Client) -> bool:
    return not await live(client)


async def _check_end(stream: Stream, *, broken: bool) -> None:
    """A broken stream ends with exactly one error and no finish reason; any other as streams do."""
    events = [data for _, data in await stream.rest()]
    assert events[-1] == "[DONE]"
    errors = [data["error"] for data in events[:-1] if "error" in data]
    reasons = [c["finish_reason"] for data in events[:-1] for c in data.get("choices", []) if c["finish_reason"]]
    if broken:
        assert [error["type"] for error in errors] == ["server_error"]
        assert events[-2] == {"error": errors[0]}
        assert reasons == []
    else:
        assert (errors, reasons) == ([], ["length"])


async def _back(client: Client, switchboard: Switchboard) -> dict[str, psutil.Process]:
    """Keep asking until all replicas are there again; each must answer meanwhile."""

    async def answered_by_all() -> bool:
        answer: Answer = await client.chat("demo", "Hello", max_tokens=3)
        assert answer.status == 200, answer.body
        return await live(client)

    await eventually(answered_by_all, BACK_S, "the replica is replaced")
    return await whole(client, switchboard)
