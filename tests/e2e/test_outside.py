"""A model behind somebody else's server."""

from __future__ import annotations

import pytest

from tests.live.asking import MESSAGES, Client, chat_body
from tests.live.config import CLIENT_TIMEOUT_S
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine


async def test_it_answers_under_our_name_for_it(client: Client) -> None:
    answer = await client.chat("outside", "hello")

    assert answer.text == "hello from outside"


async def test_it_is_asked_by_its_own_name_with_our_key_and_none_of_the_client_s_headers(
    client: Client, switchboard: Switchboard
) -> None:
    await client.chat("outside", "hello", headers={"x-secret-of-mine": "1", "x-forwarded-for": "10.0.0.1"})

    path, headers, body = switchboard.outside.requests[-1]
    assert (path, body["model"]) == ("/v1/chat/completions", "outside-model")
    assert headers["authorization"] == f"Bearer {switchboard.outside_key}"
    assert not {"x-secret-of-mine", "x-forwarded-for", "x-switchboard-secret", "x-api-key"} & headers.keys()


async def test_a_long_thought_is_no_silence_of_the_client_s(client: Client, switchboard: Switchboard) -> None:
    """HAProxy's patience with a silent client does not bound how long an answer takes."""
    switchboard.outside.slow_s = CLIENT_TIMEOUT_S + 1.5

    answer = await client.chat("outside", "be slow")

    assert answer.text == "hello from outside"


async def test_an_adapter_of_another_model_is_not_found_there(client: Client) -> None:
    answer = await client.post(MESSAGES, chat_body("outside:support", "hello", max_tokens=5))

    assert answer.status == 404
