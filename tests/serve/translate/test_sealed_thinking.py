"""Claude's thinking on its way through `/v1/responses`: out as `encrypted_content`, and back in."""

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve.errors import InvalidRequest
from serve.schemas import Json
from serve.translate.chained import Chained
from serve.translate.openai_anthropic import ChatToMessages
from serve.translate.responses_chat import ResponsesToChat
from serve.translate.sealed_thinking import seal, unseal
from serve.translate.sse import Splitter, parse
from serve.translate.translator import Incomplete
from tests.fakes import vendors

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASKED: Json = {"model": "m", "input": "hi"}
NOW = 1_800_000_000
MARKER = seal([])[: -len(base64.b64encode(b"[]"))]


def outer(*, thinking: bool = True) -> ResponsesToChat:
    numbers = itertools.count()
    return ResponsesToChat(lambda: NOW, lambda prefix: f"{prefix}{next(numbers)}", thinking=thinking)


def both() -> Chained:
    return Chained(outer(), ChatToMessages(clock=lambda: NOW))


def thought(thinking: str = "Hm", signature: str = "s") -> Json:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def redacted(data: str = "d") -> Json:
    return {"type": "redacted_thinking", "data": data}


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def tool_use(id_: str) -> Json:
    return {"type": "tool_use", "id": id_, "name": "f", "input": {"a": id_}}


def claude(*content: Json, stop_reason: str = "end_turn") -> Json:
    return vendors.message("claude") | {"content": list(content), "stop_reason": stop_reason}


def whole(*content: Json) -> Json:
    answer = both().response(claude(*content), ASKED)
    Response.model_validate_json(json.dumps(answer), strict=True)
    return answer


def streamed(*content: Json) -> list[Json]:
    stream = both().stream({**ASKED, "stream": True})
    raw = b"".join(stream.feed(event) for event in vendors.told_as_events(claude(*content))) + stream.finish()
    found = []
    for block in Splitter(limit=0).feed(raw):
        data = parse(block).data
        assert data is not None
        EVENTS.validate_json(data, strict=True)
        found.append(json.loads(data))
    return found


def reasoning(*blocks: Json) -> Json:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal(list(blocks))}


def call(id_: str = "a") -> Json:
    return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}


def output(id_: str = "a") -> Json:
    return {"type": "function_call_output", "call_id": id_, "output": "1"}


def messages(*items: Json, thinking: bool = True) -> list[Json]:
    return list(outer(thinking=thinking).request({"model": "m", "input": list(items)})["messages"])


def chat_call(id_: str = "a") -> Json:
    return {"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def refused(content: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        messages({"role": "user", "content": "x"}, {"type": "reasoning", "encrypted_content": content})
    return caught.value.param


def refused_at(item: Json) -> str | None:
    try:
        both().request({"model": "m", "input": [item, call()]})
    except InvalidRequest as error:
        return error.param
    return None


# Out


def test_what_was_thought_is_sealed_in_its_item() -> None:
    item, message = whole(thought(), redacted(), text("a"))["output"]
    assert item["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert unseal(item["encrypted_content"], "") == [thought(), redacted()]
    assert "encrypted_content" not in message


@pytest.mark.parametrize("block", [redacted(), thought("")])
def test_thinking_that_nobody_may_read_makes_an_item(block: Json) -> None:
    item, _ = whole(block, text("a"))["output"]
    assert item["content"] == []
    assert unseal(item["encrypted_content"], "") == [block]


def test_thinking_without_its_signature_is_shown_and_not_sealed() -> None:
    item, _ = whole(thought("Hm", ""), text("a"))["output"]
    assert item["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert "encrypted_content" not in item


def test_a_stream_has_it_once_the_item_is_done() -> None:
    found = streamed(thought(), text("a"))
    added, done = (
        next(event for event in found if event["type"] == f"response.output_item.{x}") for x in ("added", "done")
    )
    assert "encrypted_content" not in added["item"]
    assert unseal(done["item"]["encrypted_content"], "") == [thought()]
    assert found[-1]["response"]["output"][0] == done["item"]


def test_a_stream_that_thinks_again_makes_items_in_order() -> None:
    items = streamed(thought("A", "1"), text("a"), thought("B", "2"), tool_use("x"), redacted())[-1]["response"][
        "output"
    ]
    assert [item["type"] for item in items] == ["reasoning", "message", "reasoning", "function_call", "reasoning"]
    sealed = [unseal(item["encrypted_content"], "") for item in items if item["type"] == "reasoning"]
    assert sealed == [[thought("A", "1")], [thought("B", "2")], [redacted()]]


def test_thinking_of_a_server_that_is_not_known_to_want_it_back_is_not_sealed() -> None:
    message = {"role": "assistant", "content": "a", "thinking_blocks": [thought(), 5]}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert [item["type"] for item in outer(thinking=False).response(answer, ASKED)["output"]] == ["message"]


@pytest.mark.parametrize("blocks", [5, {}, [5], [{"type": "musing"}], [{"type": "thinking", "thinking": "x"}]])
def test_what_is_no_thinking_is_incomplete(blocks: Any) -> None:
    answer = {"choices": [{"message": {"content": "a", "thinking_blocks": blocks}, "finish_reason": "stop"}]}
    with pytest.raises(Incomplete):
        outer().response(answer, ASKED)


# In


def test_thinking_goes_to_the_message_that_follows_it() -> None:
    assert messages(reasoning(thought(), redacted()), {"role": "assistant", "content": "x"}) == [
        {"role": "assistant", "content": "x", "thinking_blocks": [thought(), redacted()]}
    ]
    assert messages(reasoning(thought()), reasoning(redacted()), call("a"), call("b"), output("a"), output("b"))[0] == {
        "role": "assistant",
        "content": None,
        "thinking_blocks": [thought(), redacted()],
        "tool_calls": [chat_call("a"), chat_call("b")],
    }


def test_thinking_after_a_text_begins_a_message() -> None:
    said = {"role": "assistant", "content": "x"}
    assert messages(said, reasoning(thought()), call(), output())[:2] == [
        said,
        {"role": "assistant", "content": None, "thinking_blocks": [thought()], "tool_calls": [chat_call()]},
    ]


def test_thinking_between_calls_is_of_the_same_turn() -> None:
    first, *results = messages(
        reasoning(thought()), call("a"), reasoning(redacted()), call("b"), output("a"), output("b")
    )
    assert first["thinking_blocks"] == [thought(), redacted()]
    assert first["tool_calls"] == [chat_call("a"), chat_call("b")]
    assert [message["role"] for message in results] == ["tool", "tool"]


def test_each_turn_has_its_own_thinking() -> None:
    asked = messages(reasoning(thought()), call("a"), output("a"), reasoning(redacted()), call("b"), output("b"))
    assert [message.get("thinking_blocks") for message in asked] == [[thought()], None, [redacted()], None]


def test_thinking_of_which_nothing_came_is_left_out() -> None:
    asked = {"role": "user", "content": "x"}
    assert messages(asked, reasoning(thought()), asked, reasoning(thought())) == [asked, asked]


@pytest.mark.parametrize("content", [None, "", "gAAAAABo", 5, MARKER[:-1]])
def test_thinking_of_somebody_else_is_ignored(content: Any) -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": content}
    assert messages(item, call()) == messages(call())


def test_a_server_that_has_chat_alone_is_never_sent_thinking() -> None:
    damaged = reasoning() | {"encrypted_content": f"{MARKER}!"}
    assert messages(reasoning(thought()), damaged, call(), thinking=False) == messages(call())


@pytest.mark.parametrize(
    "inside",
    [
        *(
            b"",
            b"{",
            b"{}",
            b"5",
            b"[5]",
            b"[null]",
            b'[{"type":"thinking","thinking":"x"}]',
            b'[{"type":[]}]',
            b"\xff",
        ),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_damaged_thinking_is_refused_by_place(inside: bytes) -> None:
    assert refused(MARKER + base64.urlsafe_b64encode(inside).decode()) == "input[1].encrypted_content"


@pytest.mark.parametrize("inside", ["!", "ä", "W10", "W10=\n", "\ud800"])
def test_what_is_no_base64_is_refused_by_place(inside: str) -> None:
    assert refused(MARKER + inside) == "input[1].encrypted_content"


# Whatever was thought

THOUGHTS = st.lists(
    st.builds(thought, st.text(max_size=5), st.text(max_size=3)) | st.builds(redacted, st.text(max_size=5)), max_size=4
)
SAID = st.lists(st.text(min_size=1, max_size=5).map(text), max_size=1)
CALLS = st.integers(0, 2).map(lambda count: [tool_use(f"toolu_{number}") for number in range(count)])


@given(THOUGHTS, SAID, CALLS)
def test_a_stream_adds_up_to_the_whole_answer(thoughts: list[Json], said: list[Json], calls: list[Json]) -> None:
    content = [*thoughts, *said, *calls]
    # Claude's own JSON of a call has blanks that the whole answer's has not.
    bare = [block | {"input": {}} if block["type"] == "tool_use" else block for block in content]
    found = streamed(*bare)
    assert found[-1]["response"] == whole(*bare)
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == found[-1]["response"]["output"]


@given(THOUGHTS, SAID, CALLS, st.booleans())
def test_what_was_thought_comes_back(thoughts: list[Json], said: list[Json], calls: list[Json], stream: bool) -> None:
    content = [*thoughts, *said, *calls]
    items = streamed(*content)[-1]["response"]["output"] if stream else whole(*content)["output"]
    items += [{"type": "function_call_output", "call_id": called["id"], "output": "1"} for called in calls]
    sent = both().request({"model": "m", "input": [{"role": "user", "content": "x"}, *items]})["messages"]
    came_of_it = [*said, *calls]
    proven = [block for block in thoughts if block.get("signature") != ""]
    assert [turn["content"] for turn in sent if turn["role"] == "assistant"] == (
        [[*proven, *came_of_it]] if came_of_it else []
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "thinking", "signature", "data"]), inner, max_size=4)
        | THOUGHTS
    ),
    max_leaves=8,
)
WILD = st.one_of(
    st.text(max_size=9),
    st.binary(max_size=9).map(lambda data: base64.urlsafe_b64encode(data).decode()),
    JSON.map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode()),
    st.tuples(THOUGHTS.map(seal), st.integers(1, 9)).map(lambda cut: cut[0][len(MARKER) : -cut[1]]),
)


@given(WILD | JSON, st.booleans())
def test_wild_content_is_read_ignored_or_refused_by_place(wild: Any, ours: bool) -> None:
    content = MARKER + wild if ours and isinstance(wild, str) else wild
    item: Json = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": content}
    assert refused_at(item) in (None, "input[0].encrypted_content")
