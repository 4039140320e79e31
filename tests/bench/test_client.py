from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.client import Answer, ChatEvents, Connection, chat, post
from tests.bench.sse_server import answering, cut, stream

REQUEST = post("/v1/chat/completions", chat("demo", "Hello", 3))


def delta(content: str) -> bytes:
    return b'data: {"id":"1","choices":[{"index":0,"delta":{%s}}]}\n\n' % content.encode()


ROLE = delta('"role":"assistant","content":""')
TEXTS = [delta(f'"content":"{text}"') for text in ("a", "", '\\"role\\":\\"user\\"', "é")]
FINISH = b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = [ROLE, *TEXTS, FINISH, USAGE, DONE]
ERROR = b'data: {"error":{"message":"no","type":"server_error"}}\n\n'


async def ask_once(*pieces: bytes, then_close: bool = False) -> Answer:
    async with answering(pieces, then_close=then_close) as (port, _):
        connection = Connection(port)
        answer = await connection.ask(REQUEST)
        connection.close()
    return answer


@given(places=st.lists(st.integers(0, 10_000)))
def test_events_are_counted_however_the_stream_is_cut(places: list[int]) -> None:
    events = ChatEvents()
    counted = sum(events.feed(piece) for piece in cut(b"".join(WHOLE), places))
    assert (counted, events.tokens, events.done, events.error) == (4, 4, True, "")


@given(places=st.lists(st.integers(0, 10_000), max_size=20))
@settings(max_examples=25)
async def test_an_answer_is_read_however_the_network_cuts_it(places: list[int]) -> None:
    answer = await ask_once(*cut(stream(WHOLE), places))
    assert (answer.fault, answer.tokens, len(answer.arrivals)) == ("", 4, 4)
    assert [answer.sent, *answer.arrivals, answer.ended] == sorted([answer.sent, *answer.arrivals, answer.ended])


async def test_two_events_in_one_chunk_arrive_together() -> None:
    answer = await ask_once(stream([ROLE, b"".join(TEXTS), FINISH, USAGE, DONE]))
    assert len(answer.arrivals) == 4
    assert len(set(answer.arrivals)) == 1


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with answering([stream(WHOLE)], [stream(WHOLE)]) as (port, requests):
        connection = Connection(port)
        answers = [await connection.ask(REQUEST) for _ in range(2)]
        connection.close()
        assert requests == [2]
    assert [answer.fault for answer in answers] == ["", ""]


async def test_a_connection_that_the_server_gives_up_is_opened_anew() -> None:
    last = stream(WHOLE, headers=b"connection: close\r\n")
    async with answering([last], [last]) as (port, requests):
        connection = Connection(port)
        answers = [await connection.ask(REQUEST) for _ in range(2)]
        connection.close()
        assert requests == [1, 1]
    assert [answer.fault for answer in answers] == ["", ""]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (stream([b'{"error":"full"}'], status=b"429 Too Many Requests"), 'status 429: {"error":"full"}'),
        (stream([ROLE, ERROR, DONE]), '"server_error"'),
        (stream([ROLE, *TEXTS]), "without [DONE]"),
        (b"SSH-2.0-nothing\r\n\r\n", "not HTTP"),
        (stream(WHOLE)[:-30], "closed"),
        (b"", "closed"),
    ],
)
async def test_what_is_wrong_with_an_answer_is_said(answer: bytes, fault: str) -> None:
    assert fault in (await ask_once(answer, then_close=True)).fault


async def test_after_a_fault_the_next_request_is_answered() -> None:
    async with answering([b"nonsense\r\n\r\n"], [stream(WHOLE)]) as (port, _):
        connection = Connection(port)
        broken, whole = [await connection.ask(REQUEST) for _ in range(2)]
        connection.close()
    assert broken.fault
    assert not whole.fault


async def test_nobody_listening_is_a_fault_of_the_answer() -> None:
    async with answering() as (port, _):
        pass
    assert (await Connection(port).ask(REQUEST)).fault.startswith("no connection")
