"""Bad input (FAULTS 7-18, 48) through everything that stands before the engine, and the engine itself."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from tests.live.asking import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Answer, Client, chat_body
from tests.live.config import context_tokens

pytestmark = pytest.mark.engine

BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
MIB = 1024**2
COMPILED_S = 20.0


def refused(answer: Answer, path: str, status: int = 400) -> str:
    """Check the shape of an error; give its message."""
    assert answer.status == status, answer.body[:500]
    assert len(answer.body) < 4096
    error = answer.json["error"]
    if path == MESSAGES:
        assert answer.json["type"] == "error"
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert error.keys() == {"type", "message"}
    else:
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] is None or isinstance(error["code"], str)
    return str(error["message"])


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"model": "demo"',
        b'{"model": "demo", "messages": "\xff"}',
        b'{"model": "demo", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "demo", "temperature": NaN}',
        b"[" * 100_000,
    ],
    ids=["empty", "array", "null", "cut off", "not UTF-8", "huge number", "NaN", "deeply nested"],
)
async def test_what_is_no_json_object_is_refused(client: Client, path: str, body: bytes) -> None:
    refused(await client.post(path, body), path)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "root", "content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000_000}, "max_tokens"),
        ({"base_url": "http://127.0.0.1:1"}, "base_url"),
        ({"api_key": "sk-mine"}, "api_key"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_field_is_named_and_never_begins_a_stream(
    client: Client, path: str, change: dict[str, Any], named: str, stream: bool
) -> None:
    body = chat_body("demo", "hello", max_tokens=5) | change | {"stream": stream}

    answer = await client.post(path, body)

    message = refused(answer, path)
    assert named in (message if path == MESSAGES else f"{answer.json['error']['param']} {message}")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n": 100_000}, "n"),
        ({"logprobs": True, "top_logprobs": 1_000_000_000}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_openai_s_own_parameters_have_bounds(
    client: Client, change: dict[str, Any], named: str, stream: bool
) -> None:
    answer = await client.post(CHAT, chat_body("demo", "hello", max_tokens=5, stream=stream) | change)

    assert named in f"{answer.json['error']['param']} {refused(answer, CHAT)}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pattern_that_is_none_is_refused(client: Client, stream: bool) -> None:
    broken = {"structured_outputs": {"regex": "(((a"}}

    refused(await client.post(CHAT, chat_body("demo", "hello", max_tokens=5, stream=stream) | broken), CHAT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_regex_bomb_leaves_the_engine_alive(client: Client, stream: bool) -> None:
    bomb = {"structured_outputs": {"regex": "((((a{1,999}){1,999}){1,999}){1,999}){1,999}"}}

    async with asyncio.timeout(COMPILED_S):
        answer = await client.post(CHAT, chat_body("demo", "hello", max_tokens=5, stream=stream) | bomb)
        other = await client.chat("demo", "hello")

    assert answer.status in (200, 400), answer.body
    assert other.status == 200


@BOTH
async def test_a_prompt_longer_than_the_context_is_refused(client: Client, path: str) -> None:
    refused(await client.post(path, chat_body("demo", "word " * (2 * context_tokens()), max_tokens=5)), path)


async def test_anthropic_s_max_tokens_is_required(client: Client) -> None:
    assert "max_tokens" in refused(await client.post(MESSAGES, chat_body("demo", "hello")), MESSAGES)


async def test_an_unknown_previous_response_is_named(client: Client) -> None:
    answer = await client.post(
        RESPONSES, {"model": "demo", "input": "hello", "previous_response_id": "resp_1", "stream": True}
    )

    refused(answer, RESPONSES)
    assert answer.json["error"]["code"] == "previous_response_not_found"


@BOTH
async def test_a_body_over_the_limit_is_refused(client: Client, path: str) -> None:
    refused(await client.post(path, b"{" + b" " * MIB), path, 413)


@BOTH
async def test_a_compressed_body_is_not_unpacked(client: Client, path: str) -> None:
    answer = await client.post(path, gzip.compress(b"{}" + b" " * MIB), {"content-encoding": "gzip"})

    refused(answer, path, 415)
    assert answer.headers["accept-encoding"] == "identity"


async def test_an_unknown_path_and_a_wrong_method_are_told_apart(client: Client) -> None:
    nowhere, wrong = await client.post("/v1/nowhere", {}), await client.get(CHAT)
    anthropic = await client.get(MESSAGES)

    refused(nowhere, CHAT, 404)
    refused(wrong, CHAT, 405)
    assert wrong.headers["allow"] == "POST"
    refused(anthropic, MESSAGES, 405)


@BOTH
async def test_a_huge_model_name_is_not_echoed(client: Client, path: str) -> None:
    answer = await client.post(path, chat_body("x" * (MIB // 2), "hello", max_tokens=5))

    assert "model" in refused(answer, path)


@BOTH
async def test_control_characters_come_back_escaped_if_at_all(client: Client, path: str) -> None:
    answer = await client.post(path, chat_body("a\r\nb\x1b[31m\0\u202e", "hello", max_tokens=5))

    message = refused(answer, path, 404)
    assert message.isprintable()


async def test_a_name_that_is_no_model_is_the_same_whatever_the_endpoint(client: Client) -> None:
    answer = await client.post(COMPLETIONS, {"model": "nobody", "prompt": "hello"})

    refused(answer, COMPLETIONS, 404)
    assert answer.json["error"]["code"] == "model_not_found"
