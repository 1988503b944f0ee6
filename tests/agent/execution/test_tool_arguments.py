"""Arguments as models write them: whatever they are, they fit, or the message says what to mend."""

import json
from datetime import date
from typing import Any

import jsonschema
import pytest
from execution_support import Run, call, registry_of
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent import Tool
from deepseek.agent.execution.errors import ArgumentsError
from deepseek.agent.execution.validate import canonical, parse_arguments
from deepseek.core.messages import ToolCallPart

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd") | st.text(), inner, max_size=4),
    max_leaves=12,
)
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0},
        "b": {"enum": ["x", "y", None]},
        "c": {"type": "array", "items": {"type": ["string", "null"]}},
    },
    "required": ["a"],
    "additionalProperties": False,
}


def tool(a: int, when: date | None = None, c: list[str] = []) -> str:  # noqa: B006
    return "ok"


def anything(**arguments: Any) -> str:
    return "ok"


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_an_object_or_a_message(text: str) -> None:
    try:
        parsed = parse_arguments(text, 10_000)
    except ArgumentsError as error:
        assert "the arguments are" in str(error)
    else:
        assert isinstance(parsed, dict)
        assert not text.strip() or parsed == json.loads(text)


@given(st.dictionaries(st.text(), JSON))
def test_canonical_arguments_do_not_depend_on_order_and_say_the_same(arguments: dict[str, Any]) -> None:
    written = canonical(arguments)
    assert json.loads(written) == arguments
    assert canonical(dict(reversed(arguments.items()))) == written


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), JSON))
def test_a_schema_from_elsewhere_is_held_to_as_jsonschema_does(arguments: dict[str, Any]) -> None:
    form = Tool("t", "", SCHEMA, anything).call_form
    if jsonschema.Draft202012Validator(SCHEMA).is_valid(arguments):
        assert form.check(arguments) == arguments
    else:
        with pytest.raises(ArgumentsError, match="the arguments do not fit"):
            form.check(arguments)


@given(st.dictionaries(st.sampled_from(["a", "when", "c", "d"]), JSON))
def test_no_arguments_make_a_call_fail_in_any_other_way_than_by_a_message(arguments: dict[str, Any]) -> None:
    (result,) = Run(registry_of(tool, inline=True))(call("tool", **arguments))
    assert result.status == "ok" or (result.kind == "arguments" and result.retryable and result.attempts == 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1', "not valid JSON"),
        ('{"a": 1} {"a": 2}', "not valid JSON"),
        ("[1]", "not a JSON object; found an array of 1"),
        ('"a"', 'not a JSON object; found "a"'),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": 1e999}', "cannot be written as JSON"),
        ("[" * 100_000, "recursion limit"),
        ('{"a": ' + "9" * 5000 + "}", "out of range"),
        ('{"a": "\\ud800"}', "not valid JSON"),
        ("\ud800", "not valid JSON"),
        ('{"a": "' + "x" * 300_000 + '"}', "too long; found 300009 characters"),
        ('{"a": "' + "é" * 200_000 + '"}', "too long"),
    ],
)
def test_what_is_wrong_with_the_text_is_said(text: str, said: str) -> None:
    (result,) = Run(registry_of(tool))(ToolCallPart("1", "tool", text))
    assert result.status == "error" and result.kind == "arguments" and said in result.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "a: missing"),
        ({"a": "x"}, 'a: Input should be a valid integer, unable to parse string as an integer, found "x"'),
        ({"a": 1, "wen": "2024-01-01"}, "wen: there is no such argument (did you mean 'when'?)"),
        ({"a": 1, "when": "soon"}, "when: Input should be a valid date"),
        ({"a": 1, "c": ["x", 2]}, "c.1: Input should be a valid string, found 2"),
        ({"a": {"b": 1}}, "a: Input should be a valid integer, found an object of 1"),
    ],
)
def test_each_fault_is_named_with_what_was_found_and_expected(arguments: dict[str, Any], said: str) -> None:
    (result,) = Run(registry_of(tool))(call("tool", **arguments))
    assert said in result.text
    assert '"a": {"type": "integer"}' in result.text and "call it again" in result.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "a: missing"),
        ({"a": "1"}, 'a: must be "integer", found "1"'),
        ({"a": -1}, "a: breaks minimum 0, found -1"),
        ({"a": 1, "b": "z"}, 'b: must be ["x", "y", null], found "z"'),
        ({"a": 1, "cc": []}, "cc: there is no such argument (did you mean 'c'?)"),
    ],
)
def test_faults_against_a_schema_from_elsewhere_are_named_too(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Tool("t", "", SCHEMA, anything).call_form.check(arguments)
    assert said in str(caught.value)


def test_no_message_grows_with_the_arguments() -> None:
    arguments = {f"unknown{i}" * 20: "x" * 1000 for i in range(100)}
    (result,) = Run(registry_of(tool))(call("tool", **arguments))
    assert len(result.text) < 6000


def test_arguments_that_the_function_does_not_take_are_refused_whatever_the_schema_allows() -> None:
    form = Tool.of(tool, parameters={"type": "object"}).call_form
    with pytest.raises(ArgumentsError, match="aa: there is no such argument"):
        form.check({"aa": 1})


def test_no_schema_reaches_for_the_network() -> None:
    remote = {"type": "object", "properties": {"a": {"$ref": "http://example.com/schema.json"}}}
    (result,) = Run(registry_of(anything, parameters=remote))(call("anything", a=1))
    assert result.status == "error" and "its schema cannot be checked" in result.text


BOUNDED = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "pattern": "^[0-9]+(ab)?"},
        "b": {"type": "array", "uniqueItems": True, "items": {"patternProperties": {"^x": {"type": "integer"}}}},
    },
    "patternProperties": {"^c|d$": {"type": ["null", "string"]}},
    "additionalProperties": {"type": "boolean"},
}
PIECES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([1.0, 0.0, "1", "12ab", "x"])
ITEMS = st.lists(PIECES | st.lists(PIECES, max_size=2) | st.dictionaries(st.sampled_from("xy"), PIECES), max_size=4)


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "ad", "e"]), PIECES | ITEMS))
def test_what_is_checked_in_bounded_time_is_checked_as_jsonschema_does(arguments: dict[str, Any]) -> None:
    form = Tool("t", "", BOUNDED, anything).call_form
    if jsonschema.Draft202012Validator(BOUNDED).is_valid(arguments):
        assert form.check(arguments) == arguments
    else:
        with pytest.raises(ArgumentsError, match="the arguments do not fit"):
            form.check(arguments)


@pytest.mark.timeout(20)
def test_no_arguments_keep_the_check_busy() -> None:
    letters = "a" * 100_000 + "b"
    hostile = [
        ({"properties": {"a": {"pattern": "^(a|a)*$"}}}, {"a": letters}),
        ({"patternProperties": {"^(a|a)*$": False}, "additionalProperties": True}, {letters: 1}),
        ({"patternProperties": {"^(a|a)*$": {}}, "unevaluatedProperties": False}, {letters: 1}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [*range(50_000), "x", [1], {"y": None}]}),
    ]
    for schema, arguments in hostile:
        run = Run(registry_of(anything, parameters=schema))
        assert run(call("anything", **arguments))[0].status in ("ok", "error")


def test_a_pattern_that_needs_backtracking_is_left_to_the_tool() -> None:
    form = Tool("t", "", {"properties": {"a": {"type": "string", "pattern": "^(?=x)"}}}, anything).call_form
    assert form.check({"a": "y"}) == {"a": "y"}
    with pytest.raises(ArgumentsError):
        form.check({"a": 1})


def test_a_call_without_arguments_may_say_nothing() -> None:
    def none() -> str:
        return "ok"

    for text in ("", " \n", "{}"):
        assert Run(registry_of(none))(ToolCallPart("1", "none", text))[0].status == "ok"
