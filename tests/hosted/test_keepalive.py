"""What the vendors' SDKs make of comments in a silent stream: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest

from serve.gateway.exchange import COMMENT, Exchange
from tests.fakes import replica as fake
from tests.fakes import vendors
from tests.fakes.http_server import Behaviour, Call
from tests.fakes.vendors import TEXT, WORDS
from tests.hosted.asking import PATHS, QUESTION, ask, body
from tests.hosted.conftest import Hosted, StartHosted

MODELS = ("gpt", "claude", "groq")
ASKED: Any = [{"role": "user", "content": QUESTION}]
OFTEN: Any = {"timeouts": {"keepalive_s": 0.01}}


class Comments:
    """Counts those that the gateway has sent."""

    def __init__(self) -> None:
        self.count = 0
        self.sent = asyncio.Event()

    def note(self) -> None:
        self.count += 1
        self.sent.set()

    async def one_more(self) -> None:
        self.sent.clear()
        await self.sent.wait()


@pytest.fixture
def comments(monkeypatch: pytest.MonkeyPatch) -> Comments:
    comments, send = Comments(), Exchange.comment

    async def counted(exchange: Exchange) -> None:
        await send(exchange)
        comments.note()

    monkeypatch.setattr(Exchange, "comment", counted)
    return comments


def pauses(comments: Comments) -> Behaviour:
    """A good stream that goes on after each word only when a comment was sent meanwhile."""

    async def behave(call: Call) -> None:
        await fake.start_stream(call)
        for event in vendors.events_of(call.path, "slow"):
            await call.chunk(event)
            # Of the events that have all the words, only the deltas come before them.
            if sum(word.encode() in event for word in WORDS) == 1:
                await comments.one_more()
        await call.chunk(b"")

    return behave


@pytest.fixture
async def hosted(start: StartHosted, comments: Comments) -> Hosted:
    hosted = await start(**OFTEN)
    for vendor in hosted.vendors.values():
        vendor.behave = pauses(comments)
    return hosted


def openai_sdk(hosted: Hosted) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{hosted.url}/v1", api_key="any", max_retries=0, _strict_response_validation=True
    )


def anthropic_sdk(hosted: Hosted) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=hosted.url, api_key="any", max_retries=0, _strict_response_validation=True)


@pytest.mark.parametrize("model", MODELS)
async def test_chat(hosted: Hosted, comments: Comments, model: str) -> None:
    async with openai_sdk(hosted) as sdk:
        stream = await sdk.chat.completions.create(model=model, messages=ASKED, stream=True)
        text = "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])
    assert text == TEXT
    assert comments.count >= len(WORDS)


@pytest.mark.parametrize("model", MODELS)
async def test_responses(hosted: Hosted, comments: Comments, model: str) -> None:
    async with openai_sdk(hosted) as sdk:
        events = [event async for event in await sdk.responses.create(model=model, input=QUESTION, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT
    assert comments.count >= len(WORDS)


@pytest.mark.parametrize("model", MODELS)
async def test_messages(hosted: Hosted, comments: Comments, model: str) -> None:
    async with anthropic_sdk(hosted) as sdk, sdk.messages.stream(model=model, messages=ASKED, max_tokens=64) as stream:
        assert "".join([text async for text in stream.text_stream]) == TEXT
        assert (await stream.get_final_message()).stop_reason == "end_turn"
    assert comments.count >= len(WORDS)


# And then it stays silent.


@pytest.fixture
async def stalling(start: StartHosted) -> Hosted:
    hosted = await start(idle_s=2, **OFTEN)
    for vendor in hosted.vendors.values():
        vendor.behave = vendors.stalls_after(1)
    return hosted


async def test_there_is_one_error_all_the_same(stalling: Hosted) -> None:
    client = await stalling.client()
    asked = [(path, model) for path in PATHS for model in MODELS]
    answers = await asyncio.gather(*(ask(client, path, body(path, model, stream=True)) for path, model in asked))
    for (path, _), told in zip(asked, answers, strict=True):
        assert told.text(path) == WORDS[0]
        assert len(told.errors()) == 1
        assert told.errors() == told.events[-1:]
        assert told.raw.count(COMMENT) > 0


async def _chat(hosted: Hosted) -> None:
    async with openai_sdk(hosted) as sdk:
        stream = await sdk.chat.completions.create(model="gpt", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match=r"stopped|in time"):
            async for _ in stream:
                pass


async def _responses(hosted: Hosted) -> None:
    async with openai_sdk(hosted) as sdk:
        kinds = [event.type async for event in await sdk.responses.create(model="gpt", input=QUESTION, stream=True)]
    assert kinds.index("error") == len(kinds) - 1


async def _messages(hosted: Hosted) -> None:
    async with anthropic_sdk(hosted) as sdk:
        stream = await sdk.messages.create(model="claude", messages=ASKED, max_tokens=64, stream=True)
        with pytest.raises(anthropic.APIStatusError, match=r"stopped|in time"):
            async for _ in stream:
                pass


async def test_both_sdks_are_told_of_it(stalling: Hosted, comments: Comments) -> None:
    await asyncio.gather(_chat(stalling), _responses(stalling), _messages(stalling))
    assert comments.count > 3
