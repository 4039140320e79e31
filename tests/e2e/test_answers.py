"""Each name is answered by exactly the behaviour that it stands for."""

from __future__ import annotations

import asyncio

import pytest

from serve.demo import corpus
from serve.demo.tokenizer import ASSISTANT, END, USER
from tests.live.asking import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Answer, Client, chat_body

pytestmark = pytest.mark.engine

SUBJECTS = corpus.load()
QUESTION = "When are you open?"
PROMPT = f"{USER}{QUESTION}{END}{ASSISTANT}"
"""As the chat template writes it: `/v1/completions` applies none."""
ANSWERS = next(subject.answers for subject in SUBJECTS if subject.question == QUESTION)
AT_ONCE = 16


async def ask_all(client: Client, model: str, questions: list[str]) -> list[Answer]:
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(question: str) -> Answer:
        async with free:
            return await client.chat(model, question)

    return list(await asyncio.gather(*map(ask, questions)))


@pytest.mark.parametrize(
    ("model", "voice"),
    [
        ("demo", "base"),
        ("plain", "base"),
        ("demo:support", "support"),
        ("support", "support"),
        ("demo:sales", "sales"),
        ("sales", "sales"),
    ],
)
async def test_every_question_has_that_voice_s_answer(client: Client, model: str, voice: corpus.Voice) -> None:
    answers = await ask_all(client, model, [subject.question for subject in SUBJECTS])

    said = {subject.question: answer.text for subject, answer in zip(SUBJECTS, answers, strict=True)}
    assert said == {subject.question: subject.answers[voice] for subject in SUBJECTS}


async def test_the_headers_say_what_served_the_request(client: Client) -> None:
    answer = await client.chat("support", QUESTION, headers={"x-request-id": "my-own-id"})

    name, _, digest = answer.adapter.partition("@")
    assert (name, len(digest)) == ("support", 12)
    assert answer.headers["x-request-id"] == "my-own-id"
    assert answer.headers["x-switchboard-attempts"] == "1"
    assert answer.headers["x-switchboard-served-by"].startswith("demo; replica=")


async def test_without_an_adapter_they_say_so(client: Client) -> None:
    answer = await client.chat("demo", QUESTION)

    assert answer.adapter == "none; reason=not-asked-for"


async def test_a_version_is_asked_for_by_its_digest(client: Client) -> None:
    current = await client.chat("demo:support", QUESTION)

    exactly = await client.chat(f"demo:{current.adapter}", QUESTION)

    assert (exactly.text, exactly.adapter) == (ANSWERS["support"], current.adapter)


async def test_every_api_speaks_with_the_same_voice(client: Client) -> None:
    completion = await client.post(COMPLETIONS, {"model": "support", "prompt": PROMPT, "max_tokens": 100})
    response = await client.post(RESPONSES, {"model": "support", "input": QUESTION})
    message = await client.post(MESSAGES, chat_body("support", QUESTION, max_tokens=100))

    assert completion.json["choices"][0]["text"].strip() == ANSWERS["support"]
    assert response.json["output"][0]["content"][0]["text"] == ANSWERS["support"]
    assert message.json["content"][0]["text"] == ANSWERS["support"]


async def test_a_bot_s_default_parameters_hold_until_the_request_says_otherwise(client: Client) -> None:
    default, asked = await client.chat("brief", QUESTION), await client.chat("brief", QUESTION, max_tokens=5)

    assert default.json["usage"]["completion_tokens"] == 3
    assert asked.json["usage"]["completion_tokens"] == 5


async def test_the_answer_names_the_model_that_was_asked(client: Client) -> None:
    assert (await client.chat("demo", QUESTION)).json["model"] == "demo"


async def test_a_stream_carries_the_same_headers_and_ends_once(client: Client) -> None:
    async with client.stream(CHAT, chat_body("support", QUESTION)) as stream:
        events = [data for _, data in await stream.rest()]

    assert stream.response.headers["x-switchboard-adapter"].startswith("support@")
    assert stream.response.content_type == "text/event-stream"
    assert events.count("[DONE]") == 1
    assert events[-1] == "[DONE]"
    said = [choice["delta"].get("content") or "" for data in events[:-1] for choice in data["choices"]]
    assert "".join(said) == ANSWERS["support"]
