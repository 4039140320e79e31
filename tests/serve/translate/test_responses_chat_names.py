"""A request for `/v1/responses` that Claude's translator refuses is refused in the client's own words."""

from __future__ import annotations

from typing import Any

import pytest

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.chained import Chained
from serve.translate.openai_anthropic import ChatToMessages
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.responses_chat_names import clients_field
from serve.translate.sealed_thinking import seal

TO_CLAUDE = Chained(ResponsesToChat(thinking=True), ChatToMessages())
HELLO: Json = {"role": "user", "content": "Hello"}
BAD_IMAGE: Json = {"type": "input_image", "image_url": "ftp://host/a.png"}
BAD_FILE: Json = {"type": "input_file", "file_data": "data:text/plain;base64,AA=="}
TEXT: Json = {"type": "input_text", "text": "And?"}
THOUGHT = {"type": "reasoning", "summary": [], "encrypted_content": seal([{"type": "redacted_thinking", "data": "d"}])}


def call(arguments: str = "{}", call_id: str = "c") -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}


def said(text: str) -> Json:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"role": "system", "content": "Be brief."}]}, "input"),
        ({"input": [{"role": "user", "content": [BAD_IMAGE]}]}, "input[0].content[0].image_url"),
        ({"input": [HELLO, {"role": "user", "content": [TEXT, BAD_FILE]}]}, "input[1].content[1].file_data"),
        ({"input": [HELLO, call("[]")]}, "input[1].arguments"),
        ({"input": [HELLO, call(), call("[]", "d")]}, "input[2].arguments"),
        ({"input": [HELLO, call(), said("Wait."), call("[]", "d")]}, "input[3].arguments"),
        ({"input": [HELLO, said("Wait."), call("[]")]}, "input[2].arguments"),
        ({"input": [THOUGHT, HELLO, THOUGHT, call("[]")]}, "input[3].arguments"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"instructions": "Be brief."}, {"instructions": None, "user": None}])
def test_a_refusal_names_the_field_that_the_client_sent(fields: Json, named: str, more: Json) -> None:
    asked: dict[str, Any] = {"model": "claude", "input": "Hello", **fields, **more}
    with pytest.raises(InvalidRequest) as caught:
        TO_CLAUDE.request(asked)
    assert caught.value.param == named
    assert caught.value.message.startswith(f"'{named}' ")


@pytest.mark.parametrize(("place", "named"), [("input", "input"), ("instructions", "instructions")])
def test_within_a_text_there_is_nothing_to_name(place: str, named: str) -> None:
    assert clients_field("messages[0].content[0].text", {"messages[0]": place}) == named


def test_the_tenth_message_is_not_the_first() -> None:
    places = {"messages[1]": "input[0]", "messages[10]": "input[9]"}
    assert clients_field("messages[10].content", places) == "input[9].content"
