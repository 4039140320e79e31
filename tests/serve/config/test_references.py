"""`${NAME}` and `${NAME:-default}`."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.config.references import MAX_DEPTH, MAX_VALUES, FromReference, expand

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)


def expanded(value: Any, **env: str) -> Any:
    copy, faults = expand(value, env)
    assert faults == []
    return copy


def faults_of(value: Any, **env: str) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in expand(value, env)[1]]


def test_a_name_stands_for_its_variable_anywhere_in_a_text() -> None:
    assert expanded("a ${X} b ${Y}", X="1", Y="2") == "a 1 b 2"


def test_the_default_stands_in_for_an_unset_or_empty_variable() -> None:
    assert expanded("${X:-d}") == "d"
    assert expanded("${X:-d}", X="") == "d"
    assert expanded("${X:-d}", X="v") == "v"


@pytest.mark.parametrize(("text", "plain"), [("$$", "$"), ("a$$b", "a$b"), ("$${X}", "${X}"), ("$$$$", "$$")])
def test_two_dollars_are_one(text: str, plain: str) -> None:
    assert expanded(text, X="no") == plain


@pytest.mark.parametrize(
    "text", ["$", "a $HOME", "${", "${}", "${1X}", "${X", "${X-d}", "${X:-a$b}", "${X:-${Y}}", "$$$"]
)
def test_a_dollar_that_begins_no_reference_is_refused(text: str) -> None:
    (fault,) = faults_of({"key": text}, X="1", Y="2")[:1]
    assert fault.startswith("key: has a '$' that begins no ${NAME}")


def test_every_missing_variable_is_named_with_its_path() -> None:
    config = {"models": [{"api_key": "${A}"}, {"name": "x-${B}-${C}"}]}
    assert faults_of(config, C="") == [
        "models[0].api_key: the environment variable A is not set; ${A:-default} would do without it",
        "models[1].name: the environment variable B is not set; ${B:-default} would do without it",
        "models[1].name: the environment variable C is empty; ${C:-default} would do without it",
    ]


def test_an_empty_reference_leaves_its_key_or_entry_out() -> None:
    assert expanded({"a": "${X:-}", "b": ["${X:-}", "c"], "d": "x${X:-}"}) == {"b": ["c"], "d": "x"}


def test_what_a_variable_holds_is_not_expanded_again() -> None:
    assert expanded("${X}", X="${Y} $ $$") == "${Y} $ $$"


def test_a_text_that_is_one_reference_is_told_from_written_text() -> None:
    assert isinstance(expanded("${X}", X="8"), FromReference)
    assert not isinstance(expanded("${X}0", X="8"), FromReference)
    assert not isinstance(expanded("8"), FromReference)


def test_the_given_values_stay_as_they_are() -> None:
    given_values = {"a": ["${X}"], "b": {"c": "${X:-d}"}}
    expanded(given_values, X="1")
    assert given_values == {"a": ["${X}"], "b": {"c": "${X:-d}"}}


@pytest.mark.parametrize("text", ["a\ud800b", "${X}", "a ${X}"])
def test_half_a_character_is_refused_where_it_stands(text: str) -> None:
    fault = "holds half a character (a lone surrogate)"
    assert faults_of({"a": [{"b": text}]}, X="\udc80") == [f"a[0].b: {fault}"]
    assert faults_of({"a": {"b\ud800": 1}}) == [f"a['b\\ud800']: {fault}"]


def test_keys_must_be_text_because_yaml_reads_some_as_other_things() -> None:
    assert faults_of({"versions": {1.5: "a", True: "b"}}) == [
        "versions['1.5']: is a key that YAML reads as float: quote it",
        "versions.True: is a key that YAML reads as bool: quote it",
    ]


def test_a_structure_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert faults_of({"models": circle}) == [f"models: is nested deeper than {MAX_DEPTH} levels"]


def test_a_few_lines_of_aliases_cannot_fill_the_memory() -> None:
    bomb: list[Any] = ["x"]
    for _ in range(MAX_DEPTH - 4):
        bomb = [bomb, bomb]
    assert faults_of({"models": bomb}) == [f"models: holds more than {MAX_VALUES} values"]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="$")))
def test_text_without_a_dollar_is_left_alone(text: str) -> None:
    assert expanded(text) == text


@given(st.text())
def test_any_text_can_be_written_with_doubled_dollars(text: str) -> None:
    assert expanded(text.replace("$", "$$")) == text


@given(NAMES, st.text(min_size=1), st.text(alphabet=string.ascii_letters + "/:-@ "))
def test_a_reference_gives_exactly_what_the_variable_holds(name: str, value: str, default: str) -> None:
    assert expanded(f"<${{{name}:-{default}}}>", **{name: value}) == f"<{value}>"
    assert expanded(f"<${{{name}:-{default}}}>") == f"<{default}>"


@given(st.text(alphabet="${}:-AB_1 "))
def test_any_text_expands_or_is_a_fault(text: str) -> None:
    copy, faults = expand(text, {"A": "x"})
    assert isinstance(copy, str)
    assert all(fault.message for fault in faults)
