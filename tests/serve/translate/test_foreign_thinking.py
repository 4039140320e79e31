"""What a provider is sent of a conversation that was elsewhere before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.schemas import Json
from serve.translate.foreign_thinking import without_foreign
from serve.translate.provider_events import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from serve.translate.sealed_thinking import seal

SIGNED: Json = {"type": "thinking", "thinking": "Hm", "signature": "Eq" + "Ab0+/" * 40}
REDACTED: Json = {"type": "redacted_thinking", "data": "d"}
TEXT: Json = {"type": "text", "text": "a"}
ASKED: Json = {"role": "user", "content": "x"}
OURS = ""
VLLMS = "0123456789abcdef" * 2


def unsigned(signature: str = OURS) -> Json:
    return SIGNED | {"signature": signature}


def sent(path: str, request: Json, *, signs: bool = True) -> Json:
    sent: Json = json.loads(without_foreign(path, json.dumps(request).encode(), request, signs_thinking=signs))
    return sent


def turns(path: str, *messages: Any, signs: bool = True) -> Any:
    return sent(path, {"model": "m", "messages": [ASKED, *messages, ASKED]}, signs=signs)["messages"][1:-1]


def said(*content: Json) -> Json:
    return {"role": "assistant", "content": list(content)}


def test_chat_is_not_sent_claudes_thinking() -> None:
    spoken: Json = {"role": "assistant", "content": "a", "refusal": None, "annotations": []}
    thought = {"reasoning_content": "Hm", "thinking_blocks": [SIGNED, REDACTED]}
    assert turns(CHAT, spoken | thought, spoken | {"thinking_blocks": []}) == [spoken, spoken]


def test_chat_is_sent_what_may_be_its_own() -> None:
    spoken = {"role": "assistant", "content": "a", "reasoning_content": "Hm"}
    quoted = {"role": "user", "content": '"thinking_blocks"', "thinking_blocks": 5}
    assert turns(CHAT, spoken, quoted) == [spoken, quoted]
    assert turns(CHAT, spoken | {"thinking_blocks": None}) == [spoken]


def test_responses_are_not_sent_what_is_sealed() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal([SIGNED])}
    own = sealed | {"encrypted_content": "gAAAAABo"}
    assert sent(RESPONSES, {"input": [ASKED, sealed, own]})["input"] == [ASKED, own]


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
@pytest.mark.parametrize("signature", [OURS, VLLMS])
def test_claude_is_not_sent_thinking_that_it_did_not_sign(path: str, signature: str) -> None:
    assert turns(path, said(unsigned(signature), TEXT), said(SIGNED, TEXT)) == [said(TEXT), said(SIGNED, TEXT)]


def test_a_turn_of_nothing_else_is_left_out() -> None:
    assert turns(MESSAGES, said(unsigned())) == []
    assert turns(MESSAGES, said()) == [said()]


def test_who_signs_nothing_gets_its_own_thinking_back() -> None:
    assert turns(MESSAGES, said(unsigned(), TEXT), signs=False) == [said(unsigned(), TEXT)]


def test_only_the_models_own_turns_hold_thinking() -> None:
    strange = {"role": "user", "content": [unsigned()]}
    assert turns(MESSAGES, strange, said(unsigned(), TEXT)) == [strange, said(TEXT)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"messages":  [{"role": "assistant", "content": "\\u00e9"}]}'),
        (COMPLETIONS, b'{"prompt":  "\\"thinking_blocks\\" \\"signature\\": \\"\\""}'),
        (MESSAGES, b'{"messages":  [{"role": "user", "content": "\\"signature\\": \\"\\""}]}'),
        (RESPONSES, b'{"input":  "x"}'),
    ],
)
def test_any_other_request_passes_byte_by_byte(path: str, body: bytes) -> None:
    assert without_foreign(path, body, json.loads(body), signs_thinking=True) == body


WILD = st.recursive(
    st.none() | st.integers() | st.sampled_from(["assistant", "thinking", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "signature", "thinking_blocks", "reasoning_content"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([CHAT, MESSAGES]), st.lists(WILD, max_size=3) | WILD)
def test_what_makes_no_sense_is_the_providers_to_refuse(path: str, messages: Any) -> None:
    request = {"messages": messages, "a": ["thinking_blocks", "signature"], "thinking_blocks": 1, "signature": ""}
    told = sent(path, request)
    assert told | {"messages": messages} == request
    if not isinstance(messages, list):
        assert told == request
    elif path == CHAT:
        assert len(told["messages"]) == len(messages)
