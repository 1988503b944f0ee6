"""The Berkeley function-calling leaderboard's functions: not one of them is JSON schema as it stands."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammar_oracle import drawn_text

from deepseek.agent import Tool
from deepseek.agent.execution.errors import ArgumentsError
from deepseek.agent.execution.names import own_name
from deepseek.agent.execution.schema import normalise_function, normalise_schema
from deepseek.core.messages import ToolSpec

# The collection is not part of the repository.
DATA = Path(os.environ.get("DEEPSEEK_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "bfcl"
# A boolean where the function wants a text, null where it wants a number.
FAULTY_ANSWERS = ["simple_python_307", "parallel_152", "parallel_152"]
FILES = ("simple_python", "parallel")


@cache
def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"the BFCL collection is not at {DATA}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def functions() -> Iterator[dict[str, Any]]:
    for file in FILES:
        for row in rows(file):
            yield from row["function"]


def anything(**arguments: Any) -> Any:
    return arguments


def tool_of(spec: ToolSpec) -> Tool:
    return Tool(spec.name, spec.description, spec.parameters, anything)


def test_every_function_compiles_and_what_its_grammar_draws_is_valid() -> None:
    count = 0
    for function in functions():
        spec = normalise_function(function)
        jsonschema.Draft202012Validator.check_schema(spec.parameters)
        text = drawn_text(spec.parameters, seed=count)
        assert text is not None
        tool_of(spec).call_form.check(json.loads(text))
        count += 1
    assert count == 600


def test_every_name_becomes_one_that_apis_take_and_comes_back() -> None:
    for function in functions():
        name = normalise_function(function).name
        assert re.fullmatch("[A-Za-z0-9_-]+", name)
        assert own_name(name) == function["name"]


def test_the_answers_of_the_collection_are_valid_arguments() -> None:
    refused = []
    for file in FILES:
        answers = {row["id"]: row["ground_truth"] for row in rows(f"{file}.answers")}
        for row in rows(file):
            specs = {function["name"]: normalise_function(function) for function in row["function"]}
            for answer in answers[row["id"]]:
                for name, possible in answer.items():
                    try:
                        tool_of(specs[name]).call_form.check(chosen(possible))
                    except ArgumentsError:
                        refused.append(row["id"])
    assert refused == FAULTY_ANSWERS


def chosen(possible: dict[str, list[Any]]) -> dict[str, Any]:
    """One answer of the possible values of each key; "" among them means that it may be left out."""
    return {
        key: plain(next(v for v in values if v != ""))
        for key, values in possible.items()
        if set(map(str, values)) != {""}
    }


def plain(value: Any) -> Any:
    """An object is written as the possible values of each key in turn."""
    if isinstance(value, dict):
        return chosen(value)
    return [plain(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def test_types_of_other_languages_become_those_of_json() -> None:
    schema = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "optional": True, "description": "a"},
            "b": {"type": "tuple", "items": {"type": "int"}},
            "c": {"type": "any", "description": "c"},
            "type": {"type": "str", "required": True, "default": None},
            "d": {"type": ["String", "null"], "enum": ["float", "dict"]},
            "e": {"type": "array", "items": {"type": "dict", "properties": {"x": {"type": "double"}}}},
        },
        "required": ["a", "type", "gone"],
    }
    assert normalise_schema(schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "a"},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {"description": "c"},
            "type": {"type": "string"},
            "d": {"type": ["string", "null"], "enum": ["float", "dict"]},
            "e": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
        },
        "required": ["a", "type"],
    }


def test_what_is_json_schema_already_stays_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": "x"},
            "required": {"const": None},
        },
        "required": ["a"],
        "additionalProperties": {"type": "integer"},
        "$defs": {"float": {"type": "number"}},
    }
    assert normalise_schema(schema) == schema


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    spec = normalise_function({"name": "now"})
    assert spec == ToolSpec("now", "", {"type": "object", "properties": {}})
