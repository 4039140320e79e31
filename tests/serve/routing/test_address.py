from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import NotFound
from serve.routing.address import Address, parse

PART = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":@"), min_size=1, max_size=200)
ADDRESSES = st.builds(Address, PART) | st.builds(Address, PART, PART) | st.builds(Address, PART, PART, PART)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("demo", Address("demo")),
        ("org/Model-1.5_b", Address("org/Model-1.5_b")),
        ("demo:support", Address("demo", "support")),
        ("demo:support@3f2a", Address("demo", "support", "3f2a")),
    ],
)
def test_the_three_forms(text: str, address: Address) -> None:
    assert parse(text) == address


@given(ADDRESSES)
def test_an_address_reads_back_as_it_was_written(address: Address) -> None:
    assert parse(str(address)) == address


JUNK = ["", ":", "demo:", ":support", "demo@1", "demo:support@", "demo:@1", "demo:a:b", "demo:a@b@c"]
JUNK += [" demo", "demo ", "demo\n", "de\x00mo", "démo", "\ud800", "x" * 201]


@pytest.mark.parametrize("text", JUNK)
def test_what_cannot_be_an_address_is_a_model_that_does_not_exist(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        parse(text)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def parsed(text: str) -> Address | NotFound:
    try:
        return parse(text)
    except NotFound as error:
        return error


@given(st.text() | st.text(alphabet=":@a\n\x1b\ud800"))
def test_any_text_is_an_address_or_not_found_in_one_short_printable_line(text: str) -> None:
    result = parsed(text)
    if isinstance(result, Address):
        assert str(result) == text
    else:
        assert result.message.isprintable()
        assert result.message.encode()
        assert len(result.message) < 120
