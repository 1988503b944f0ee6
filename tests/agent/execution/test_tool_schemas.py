"""What is read from functions: schemas that our grammar compiles, and that say what the function takes."""

import functools
import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
from pydantic import BaseModel, Field

from deepseek.agent import Tool, ToolContext
from deepseek.core.constraint import Constraint
from deepseek.engine.grammar.source import grammar_source
from deepseek.training.curriculum.schema import CALCULATOR, CONVERT, DATE, MEMORY_SET, canonical_tool


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Address(BaseModel):
    street: str
    number: int = Field(ge=1)


def many_types(
    text: str,
    count: Annotated[int, Field(ge=0, le=10, description="how many")],
    when: date,
    colour: Colour,
    where: Point,
    address: Address,
    ids: list[UUID],
    price: Decimal = Decimal("1.5"),
    mode: Literal["a", "b"] = "a",
    tags: dict[str, int] | None = None,
    pair: tuple[int, str] = (1, "x"),
    path: Path = Path("."),
) -> Any:
    return locals()


def schema_of(function: Any, **options: Any) -> Any:
    return dict(Tool.of(function, **options).parameters)


def test_the_schema_of_every_type_compiles_and_is_valid() -> None:
    schema = schema_of(many_types)
    jsonschema.Draft202012Validator.check_schema(schema)
    grammar_source(Constraint.json_schema(schema))
    assert schema["required"] == ["text", "count", "when", "colour", "where", "address", "ids"]
    assert schema["properties"]["count"] == {"description": "how many", "maximum": 10, "minimum": 0, "type": "integer"}
    assert schema["properties"]["mode"] == {"enum": ["a", "b"], "type": "string", "default": "a"}
    assert "title" not in json.dumps(schema)


def test_values_arrive_as_the_types_that_the_hints_name() -> None:
    tool = Tool.of(many_types)
    values = tool.call_form.check(
        {
            "text": "t",
            "count": 3,
            "when": "2024-02-29",
            "colour": "red",
            "where": {"x": 1},
            "address": {"street": "s", "number": 2},
            "ids": ["12345678-1234-5678-1234-567812345678"],
            "pair": [1, "b"],
        }
    )
    got = tool.call_form.call(tool.function, values)
    assert got["when"] == date(2024, 2, 29) and got["colour"] is Colour.RED and got["where"] == Point(1.0)
    assert got["address"] == Address(street="s", number=2) and got["ids"] == [
        UUID(int=0x12345678123456781234567812345678)
    ]
    assert got["pair"] == (1, "b") and got["price"] == Decimal("1.5") and got["tags"] is None


def google(city: str, days: int = 1) -> None:
    """Forecast the weather.

    For one city.

    Args:
        city: its name,
            in English
        days (int): how far ahead
    """


def numpy_style(city: str, days: int = 1) -> None:
    """Forecast the weather.

    For one city.

    Parameters
    ----------
    city : str
        its name,
        in English
    days : int
        how far ahead
    """


def rest(city: str, days: int = 1) -> None:
    """Forecast the weather.

    For one city.

    :param city: its name,
        in English
    :param int days: how far ahead
    """


@pytest.mark.parametrize("function", [google, numpy_style, rest])
def test_three_styles_of_docstring_are_read(function: Any) -> None:
    tool = Tool.of(function)
    assert tool.description == "Forecast the weather.\nFor one city."
    assert tool.parameters["properties"] == {
        "city": {"type": "string", "description": "its name, in English"},
        "days": {"type": "integer", "description": "how far ahead", "default": 1},
    }


def test_a_keyword_is_named_with_an_underscore_behind_it() -> None:
    def move(from_: str, class_: int = 1, x_: int = 2) -> str:
        return f"{from_}{class_}{x_}"

    tool = Tool.of(move)
    assert list(tool.parameters["properties"]) == ["from", "class", "x_"]
    assert tool.call_form.call(move, tool.call_form.check({"from": "a", "class": 7})) == "a72"


def test_nothing_said_is_not_offered_as_null() -> None:
    def find(query: str, limit: int | None = None, other: str | int | None = None) -> None: ...

    properties = schema_of(find)["properties"]
    assert properties["limit"] == {"type": "integer"}
    assert Tool.of(find).call_form.check({"query": "q", "limit": None}) == {"query": "q", "limit": None}


SIDES = Field(6, ge=2, description="of the die")
SEEDS = Field(default_factory=list)


def test_bounds_and_defaults_may_stand_in_a_field() -> None:
    def roll(sides: int = SIDES, seeds: list[int] = SEEDS) -> Any:
        return sides, seeds

    tool = Tool.of(roll)
    assert tool.parameters["properties"]["sides"] == {
        "type": "integer", "minimum": 2, "description": "of the die", "default": 6
    }  # fmt: skip
    assert tool.parameters["required"] == []
    assert tool.call_form.call(roll, tool.call_form.check({})) == (6, [])


def test_a_function_that_takes_anything_says_so() -> None:
    def anything(first: int, **rest: Any) -> Any:
        return rest

    tool = Tool.of(anything)
    assert "additionalProperties" not in tool.parameters
    assert tool.call_form.call(anything, tool.call_form.check({"first": 1, "é.b": 2})) == {"é.b": 2}


def test_callable_objects_methods_and_partial_functions_are_tools() -> None:
    class Adder:
        """Adds."""

        def __call__(self, a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        def method(self, a: int) -> int:
            """Negate."""
            return -a

    adder = Tool.of(Adder(), name="adder")
    assert adder.description == "Add two numbers." and adder.call_form.call(adder.function, {"a": 1, "b": 2}) == 3
    assert Tool.of(Adder().method).description == "Negate."
    half = Tool.of(functools.partial(pow, exp=2), name="square", parameters={"type": "object"})
    assert half.call_form.call(half.function, {"base": 3}) == 9


def test_positional_parameters_are_given_by_name_all_the_same() -> None:
    def divide(numerator: int, denominator: int = 2, /, *, digits: int = 1) -> float:
        return round(numerator / denominator, digits)

    tool = Tool.of(divide)
    assert tool.call_form.call(divide, tool.call_form.check({"numerator": 3, "digits": 2})) == 1.5


def test_the_context_is_found_wherever_it_stands() -> None:
    def one(a: int, context: ToolContext | None = None) -> None: ...
    def two(context: ToolContext, a: int) -> None: ...

    for function in (one, two):
        assert Tool.of(function).call_form.context_parameter == "context"
        assert list(schema_of(function)["properties"]) == ["a"]
        schema_form = Tool.of(function, parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
        assert schema_form.call_form.context_parameter == "context"


def test_open_tools_have_exactly_the_schema_that_the_builtin_model_was_trained_on() -> None:
    def calculator(expression: str) -> str: ...
    def convert(value: float, from_: str, to: str) -> str: ...
    def memory_set(key: str, value: str) -> str: ...
    def date(
        op: Literal["add", "diff", "weekday"], date: str, days: int | None = None, end: str | None = None
    ) -> str: ...

    tools = ((calculator, CALCULATOR), (convert, CONVERT), (memory_set, MEMORY_SET), (date, DATE))
    for function, spec in tools:
        trained = canonical_tool(spec)["function"]
        tool = Tool.of(function, closed=False)
        assert tool.name == trained["name"]
        assert json.dumps(tool.parameters) == json.dumps(trained["parameters"])


def test_keys_of_a_schema_stand_as_people_write_them() -> None:
    def paint(colour: Annotated[Literal["red", "blue"], Field(description="of the wall")] = "red") -> None: ...

    (colour,) = schema_of(paint)["properties"].values()
    assert list(colour) == ["type", "enum", "description", "default"]


def test_unknown_arguments_of_an_open_tool_are_ignored() -> None:
    def one(a: int) -> int:
        return a

    form = Tool.of(one, closed=False).call_form
    assert form.call(one, form.check({"a": 1, "b": 2})) == 1
