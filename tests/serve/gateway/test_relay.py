"""From a request to an answer through one replica or two: what passes, what fails, and what the client then sees."""

from __future__ import annotations

import json
from collections.abc import Callable

import aiohttp
import pytest

from serve.schemas import Load
from tests.fakes import replica as fake
from tests.fakes.http_server import Behaviour, Call
from tests.fakes.replica import COMPLETION, DONE, Gate, Replica, event
from tests.serve.gateway.running import CHAT, MESSAGES, Running, Start, chat, message, sample

RESPONSES = "/v1/responses"


async def first_and_second(running: Running) -> tuple[Replica, Replica]:
    """Two replicas, of which the router turns to the idle one first."""
    return await running.replica("first"), await running.replica("second", load=Load(in_flight=50))


# What passes.


async def test_an_answer_passes_as_it_is(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    body = json.dumps(chat(temperature=0.5), indent=3).encode()
    async with client.post(CHAT, data=body) as answer:
        assert answer.status == 200
        assert await answer.json() == COMPLETION
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-switchboard-served-by"] == "demo; replica=one"
        assert answer.headers["x-switchboard-adapter"] == "none; reason=not-asked-for"
        assert answer.headers["x-switchboard-attempts"] == "1"
    call = await replica.call()
    assert (call.method, call.path) == ("POST", CHAT)
    assert call.body == body


async def test_a_stream_passes_as_it_is(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    replica.behave = fake.streams(50)
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-switchboard-attempts"] == "1"
        assert await answer.read() == b"".join(event(n) for n in range(50)) + DONE


async def test_events_reach_the_client_one_by_one(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(event(0))
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert await answer.content.readuntil(b"\n\n") == event(0)
        gate.send(event(1))
        assert await answer.content.readuntil(b"\n\n") == event(1)
        gate.end()
        assert await answer.read() == b""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
async def test_events_that_come_byte_by_byte(running: Running, client: aiohttp.ClientSession, end: bytes) -> None:
    text = 'data: {"x": "üñ"}'.encode() + end
    replica = await running.replica()
    replica.behave = fake.streams_bytes(*(bytes([byte]) for byte in text * 2))
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert await answer.read() == text * 2


@pytest.mark.parametrize("status", [400, 404, 424])
async def test_what_the_model_refuses_is_not_asked_of_another(
    running: Running, client: aiohttp.ClientSession, status: int
) -> None:
    first, second = await first_and_second(running)
    refusal = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}}
    first.behave = fake.answers(refusal, status)
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == status
        assert await answer.json() == refusal
    assert second.calls == []


# Failures before the first byte of an answer.


def torn_stream() -> Behaviour:
    gate = Gate()
    gate.send(b'data: {"half')
    gate.reset()
    return gate


BEFORE_THE_FIRST_BYTE: dict[str, Callable[[], Behaviour]] = {
    "reset": lambda: fake.resets,
    "cut in its head": lambda: fake.cut_at(20),
    "cut in its body": lambda: fake.cut_at(100),
    "shorter than declared": lambda: fake.declares(1000, b"{}"),
    "not HTTP": lambda: fake.speaks_no_http,
    "a stream without an event": lambda: fake.empty_stream,
    "a stream with half an event": lambda: fake.streams_bytes(b"data: half"),
    "a stream cut in its first event": torn_stream,
    "full": lambda: fake.answers({"error": {}}, 429, ("retry-after", "1")),
    "failed": lambda: fake.answers({"error": {}}, 500),
    "draining": lambda: fake.answers({"error": {}}, 503, ("retry-after", "1")),
    "crashed": lambda: fake.answers_bytes(b"Internal Server Error", 500, ("content-type", "text/plain")),
    "another cluster's": lambda: fake.answers_bytes(b"Not you.", 403, ("content-type", "text/plain")),
}


@pytest.mark.parametrize("case", BEFORE_THE_FIRST_BYTE)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_byte_is_invisible(
    running: Running, client: aiohttp.ClientSession, case: str, stream: bool
) -> None:
    first, second = await first_and_second(running)
    first.behave = BEFORE_THE_FIRST_BYTE[case]()
    if stream:
        second.behave = fake.streams(3)
    async with client.post(CHAT, json=chat(stream=stream)) as answer:
        body = await answer.read()
        assert answer.status == 200
        assert answer.headers.getall("x-switchboard-served-by") == ["demo; replica=second"]
        assert answer.headers.getall("x-switchboard-attempts") == ["2"]
    whole = b"".join(event(n) for n in range(3)) + DONE
    assert body == whole if stream else json.loads(body) == COMPLETION
    assert (len(first.calls), len(second.calls)) == (1, 1)
    assert first.calls[0].body == second.calls[0].body


async def test_a_replica_that_is_gone_is_passed_over(running: Running, client: aiohttp.ClientSession) -> None:
    first, second = await first_and_second(running)
    await first.refuse()
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 200
        assert answer.headers["x-switchboard-served-by"] == "demo; replica=second"
    assert len(second.calls) == 1


async def test_a_connection_that_was_closed_between_requests(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    replica.behave = fake.closes_after_answer
    for number in range(5):
        async with client.post(CHAT, json=chat()) as answer:
            assert answer.status == 200
        await (await replica.call(number)).until_gone()
    assert replica.connections == 5


async def test_a_poison_request_is_seen_by_two_replicas_at_most(start: Start) -> None:
    running = await start()
    client = await running.client()
    replicas = [await running.replica(f"replica-{number}") for number in range(4)]
    for replica in replicas:
        replica.behave = fake.resets
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 500
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        assert (await answer.json())["error"]["code"] == "engine_error"
    assert sum(len(replica.calls) for replica in replicas) == 2


@pytest.mark.parametrize(
    "failure",
    [
        fake.answers({"error": {"message": "m", "code": "engine_error"}}, 500, ("x-should-retry", "false")),
        fake.answers_bytes(b"Internal Server Error", 500, ("content-type", "text/plain")),
    ],
    ids=["told", "crashed"],
)
async def test_a_request_that_fails_everywhere(
    running: Running, client: aiohttp.ClientSession, failure: Behaviour
) -> None:
    replicas = await first_and_second(running)
    for replica in replicas:
        replica.behave = failure
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 500
        assert answer.headers.getall("x-should-retry") == ["false"]
        assert (await answer.json())["error"]["code"] == "engine_error"
    assert [len(replica.calls) for replica in replicas] == [1, 1]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_no_replica_at_all(running: Running, client: aiohttp.ClientSession, path: str) -> None:
    replicas = await first_and_second(running)
    for replica in replicas:
        await replica.refuse()
    async with client.post(path, json=message()) as answer:  # the registry has not noticed yet
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    for replica in replicas:
        await running.registry.loses(replica.replica_id)
    async with client.post(path, json=message()) as answer:
        body = await answer.json()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert body["error"]["type"] == ("server_error" if path == CHAT else "overloaded_error")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_the_only_replica_dies_under_a_request(
    running: Running, client: aiohttp.ClientSession, path: str
) -> None:
    replica = await running.replica()

    async def dies(call: Call) -> None:
        await replica.die()

    replica.behave = dies
    async with client.post(path, json=message()) as answer:  # not one that broke on the request: it is worth a retry
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "x-should-retry" not in answer.headers
    assert len(replica.calls) == 1


async def test_full_replicas_refuse_at_once(running: Running, client: aiohttp.ClientSession) -> None:
    for name in ("first", "second"):
        await running.replica(name, load=Load(in_flight=100))
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"


async def test_an_answer_without_end_is_not_kept(start: Start) -> None:
    running = await start(limits={"answer_mib": 0.001})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.answers({"text": "x" * 2000})
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 502
    replica.behave = fake.answers({"text": "x" * 900})
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 200


# Failures after the first byte.


async def test_a_stream_that_breaks_off_ends_with_one_error(running: Running, client: aiohttp.ClientSession) -> None:
    first, second = await first_and_second(running)
    first.behave = gate = Gate()
    gate.send(event(0))
    gate.send(event(1) + b'data: {"torn')
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        assert await answer.content.readexactly(len(event(0) + event(1))) == event(0) + event(1)
        gate.reset()
        error, done, end = (await answer.read()).split(b"\n\n")
    told = json.loads(error.removeprefix(b"data: "))
    assert told["error"]["code"] == "engine_error"
    assert (done, end) == (b"data: [DONE]", b"")
    assert second.calls == []


async def test_an_anthropic_stream_that_breaks_off(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(b"event: ping\ndata: {}\n\n")
    async with client.post(MESSAGES, json=message(stream=True)) as answer:
        await answer.content.readuntil(b"\n\n")
        gate.reset()
        error, end = (await answer.read()).split(b"\n\n")
    name, data = error.split(b"\n")
    assert name == b"event: error"
    told = json.loads(data.removeprefix(b"data: "))
    assert told["type"] == "error"
    assert told["error"]["type"] == "api_error"
    assert told["request_id"] == answer.headers["x-request-id"]
    assert end == b""


@pytest.mark.parametrize("end", ["reset", "idle"])
async def test_a_responses_stream_that_ends_early_keeps_counting(start: Start, end: str) -> None:
    running = await start(timeouts={"idle_s": 0.05} if end == "idle" else {})
    client = await running.client()
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(b'data: {"sequence_number": 0}\n\ndata: {"sequence_number": 1}\n\n')
    async with client.post(RESPONSES, json={"model": "demo", "input": "Hello?", "stream": True}) as answer:
        await answer.content.readuntil(b"\n\n")
        if end == "reset":
            gate.reset()
        rest = await answer.read()
    assert rest.count(b"event: error") == 1
    data = rest.strip().rpartition(b"data: ")[2]
    assert json.loads(data)["sequence_number"] == 2
    assert b"[DONE]" not in rest


# Time.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_no_first_byte_in_time(start: Start, stream: bool, path: str) -> None:
    running = await start(timeouts={"first_byte_s": 0.05})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.stalls_after(0) if stream else fake.hangs
    before = attempts("timeout"), attempts("client_gone")
    async with client.post(path, json=message(stream=stream)) as answer:
        body = await answer.json()
        assert answer.status == 504
        assert body["error"]["type"] == ("server_error" if path == CHAT else "timeout_error")
    for call in replica.calls:
        await call.until_gone()
    assert (attempts("timeout"), attempts("client_gone")) == (before[0] + 1, before[1])


async def test_silence_in_the_middle_of_a_stream(start: Start) -> None:
    running = await start(timeouts={"idle_s": 0.05})
    client = await running.client()
    replica = await running.replica()
    replica.behave = gate = Gate()
    gate.send(event(0) + event(1))
    async with client.post(CHAT, json=chat(stream=True)) as answer:
        events = (await answer.read()).split(b"\n\n")
    assert [entry + b"\n\n" for entry in events[:2]] == [event(0), event(1)]
    assert json.loads(events[2].removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert events[3:] == [b"data: [DONE]", b""]
    await (await replica.call()).until_gone()


async def test_two_attempts_share_one_deadline(start: Start) -> None:
    running = await start(timeouts={"total_s": 0.2, "first_byte_s": 0.2, "idle_s": 0.2, "connect_s": 0.2})
    client = await running.client()
    for replica in await first_and_second(running):
        replica.behave = fake.hangs
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 504


def attempts(outcome: str) -> float:
    return sample("switchboard_attempts_total", model="demo", outcome=outcome)


async def test_a_request_whose_time_is_up_is_told_from_a_client_that_left(
    running: Running, client: aiohttp.ClientSession
) -> None:
    (await running.replica()).behave = fake.hangs
    before = attempts("deadline"), attempts("client_gone")
    async with client.post(CHAT, json=chat(), headers={"x-request-timeout-ms": "50"}) as answer:
        assert answer.status == 504
    assert (attempts("deadline"), attempts("client_gone")) == (before[0] + 1, before[1])


async def test_attempts_are_counted_by_how_they_ended(running: Running, client: aiohttp.ClientSession) -> None:
    outcomes = ("reset", "ok", "status_500")
    before = [attempts(outcome) for outcome in outcomes]
    first, second = await first_and_second(running)
    first.behave = fake.resets
    async with client.post(CHAT, json=chat()):
        pass
    second.behave = fake.answers({"error": {}}, 500)
    async with client.post(CHAT, json=chat()):
        pass
    assert [attempts(outcome) - count for outcome, count in zip(outcomes, before, strict=True)] == [2, 1, 1]
