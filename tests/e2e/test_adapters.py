"""More adapters than slots, adapters that change on disk, and adapters that are not what they should be."""

from __future__ import annotations

import asyncio

import pytest

from serve.demo import corpus
from tests.live.asking import CHAT, MESSAGES, Answer, Client, chat_body
from tests.live.config import ADAPTERS, REFRESH_S, SLOTS, context_tokens
from tests.live.eventually import eventually
from tests.live.files import copied
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

QUESTIONS = [subject.question for subject in corpus.load()[4:8]]
NAMES = ("support", "sales", "anti-support", "anti-sales")
TOKENS = 24
ROUNDS = 3
AT_ONCE = 32
QUESTION = QUESTIONS[0]
ANSWERS = corpus.load()[4].answers


async def said(client: Client, adapter: str, question: str) -> str:
    """A greedy answer of a bounded length: an adapter turned around knows no end."""
    return (await client.chat(f"demo:{adapter}", question, max_tokens=TOKENS)).text


async def test_answers_do_not_mix_when_adapters_share_slots_and_batches(client: Client) -> None:
    asked = [(name, question) for name in NAMES for question in QUESTIONS]
    assert len(NAMES) > SLOTS
    alone = {one: await said(client, *one) for one in asked}
    by_adapter = {tuple(alone[name, question] for question in QUESTIONS) for name in NAMES}
    assert len(by_adapter) == len(NAMES), "the adapters cannot be told apart"
    free = asyncio.Semaphore(AT_ONCE)

    async def check(name: str, question: str) -> tuple[str, str, str]:
        async with free:
            return name, question, await said(client, name, question)

    # Interleaved: neighbours in time want different adapters.
    order = [(name, question) for _ in range(ROUNDS) for question in QUESTIONS for name in NAMES]
    together = await asyncio.gather(*(check(*one) for one in order))

    assert [one for one in together if one[2] != alone[one[0], one[1]]] == []
    metrics = await client.metrics()
    assert metrics.total("switchboard_adapter_evictions_total", model="demo") > 0
    assert metrics.total("switchboard_adapter_load_failures_total") == 0


async def test_a_stream_ends_on_the_version_it_began_with_while_a_new_one_becomes_current(
    client: Client, switchboard: Switchboard
) -> None:
    old = await client.chat("demo:changing", QUESTION)
    assert old.text == ANSWERS["support"]
    long = chat_body("demo:changing", QUESTION, max_tokens=context_tokens() // 2, ignore_eos=True)
    alone = await client.post(CHAT, long)
    async with client.stream(CHAT, long) as stream:
        await stream.event()

        copied(ADAPTERS / "sales", switchboard.adapters["changing"])
        new = await eventually(lambda: _newer(client, old), 10 * REFRESH_S + 10, "the new version is current")

        events = [data for _, data in await stream.rest()]
    assert new.text == ANSWERS["sales"]
    assert stream.response.headers["x-switchboard-adapter"] == old.adapter
    text = "".join(c["delta"].get("content") or "" for data in events[:-1] for c in data["choices"])
    assert alone.text.endswith(text)
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    again = await client.chat(f"demo:{old.adapter}", QUESTION)
    assert (again.text, again.adapter) == (ANSWERS["support"], old.adapter)


async def _newer(client: Client, old: Answer) -> Answer | None:
    answer = await client.chat("demo:changing", QUESTION)
    return answer if answer.adapter != old.adapter else None


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("nobody", "model_not_found"),
        ("nobody:support", "model_not_found"),
        ("demo:nobody", "adapter_not_found"),
        ("demo:support@000000000000", "adapter_not_found"),
        ("demo:../../etc", "adapter_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_name_is_not_found_in_either_dialect(
    client: Client, model: str, code: str, stream: bool
) -> None:
    openai = await client.chat(model, QUESTION, stream=stream)
    anthropic = await client.post(MESSAGES, chat_body(model, QUESTION, max_tokens=5, stream=stream))

    assert (openai.status, openai.json["error"]["code"], openai.json["error"]["param"]) == (404, code, "model")
    assert anthropic.status == 404
    assert anthropic.json["type"] == "error"
    assert anthropic.json["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_adapter_that_does_not_fit_is_never_answered_by_the_base_model(client: Client, stream: bool) -> None:
    openai = await client.chat("demo:broken", QUESTION, stream=stream)
    anthropic = await client.post(MESSAGES, chat_body("demo:broken", QUESTION, max_tokens=5, stream=stream))

    assert (openai.status, openai.json["error"]["code"]) == (424, "adapter_unusable")
    assert (anthropic.status, anthropic.json["type"]) == (424, "error")
    assert "/" not in openai.json["error"]["message"]
    assert (await client.chat("demo:support", QUESTION)).text == ANSWERS["support"]
