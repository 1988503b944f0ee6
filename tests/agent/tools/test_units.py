"""Conversion of units, against the curriculum's own arithmetic and against what standards say."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent.execution.errors import ArgumentsError, ToolRetry
from deepseek.agent.execution.tool import Tool
from deepseek.agent.tools.units import convert, find
from deepseek.training.curriculum import units as curriculum


def test_every_unit_of_the_curriculum_is_known_by_symbol_and_by_name_in_both_languages() -> None:
    for dimension, table in curriculum.UNITS.items():
        for symbol, (_, english, chinese) in table.items():
            assert find(symbol).symbol == symbol
            assert find(symbol).dimension == dimension
            for name in (*english, *chinese):
                assert find(name).symbol == symbol, name


def test_the_curriculums_questions_get_the_curriculums_answers() -> None:
    rng = Random(5)
    for _ in range(500):
        ask = curriculum.ask(rng, "en", False)
        answer = convert(Decimal(str(ask.arguments["value"])), ask.arguments["from"], ask.arguments["to"])
        if "oz" in (ask.arguments["from"], ask.arguments["to"]):  # the curriculum's ounce is rounded
            assert float(answer) == pytest.approx(float(ask.result), rel=1e-4, abs=5e-5)
        elif abs(Decimal(answer)) >= 1:
            assert answer == ask.result
        else:  # more digits of what is small
            assert abs(Decimal(answer) - Decimal(ask.result)) <= Decimal("0.00005")


@pytest.mark.parametrize(
    ("value", "source", "target", "answer"),
    [
        ("100", "F", "C", "37.7778"),
        ("-40", "C", "F", "-40"),
        ("0", "K", "C", "-273.15"),
        ("1", "mi", "km", "1.6093"),
        ("1", "mm", "km", "0.000001"),
        ("1", "lb", "g", "453.5924"),
        ("1", "GiB", "MB", "1073.7418"),
        ("3.5", "公里", "miles", "2.1748"),
        ("1", "斤", "kg", "0.5"),
        ("5", "Kilometers per hour", "m/s", "1.3889"),
        ("1", "square feet", "m²", "0.0929"),
        ("0.1", "m", "cm", "10"),
        ("90", "degrees Fahrenheit", "°C", "32.2222"),
        ("1", "B", "bits", "8"),
    ],
)
def test_conversions_are_those_of_the_standards(value: str, source: str, target: str, answer: str) -> None:
    assert convert(Decimal(value), source, target) == answer


@given(
    st.decimals(min_value=1, max_value=10**6, places=2),
    st.sampled_from([(d, s, t) for d, table in curriculum.UNITS.items() for s in table for t in table]),
)
def test_there_and_back_is_where_it_began(value: Decimal, units: tuple[str, str, str]) -> None:
    dimension, source, target = units
    if dimension == "temperature" and source != target:
        return  # four decimals of a degree are not enough to come back to two
    there = Decimal(convert(value, source, target))

    back = Decimal(convert(there, target, source))
    step = float(find(target).size / find(source).size) * 0.00005  # of what was rounded away on the way there
    assert abs(float(back - value)) <= max(0.0002 * float(value), step) + 0.0001


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("km", "kg", "cannot convert length"),
        ("foo", "m", "unknown unit 'foo'"),
        ("kilometrs", "m", "perhaps km"),
        ("", "m", "unknown unit"),
    ],
)
def test_what_cannot_be_converted_is_said(source: str, target: str, said: str) -> None:
    with pytest.raises(ToolRetry, match=said):
        convert(Decimal(1), source, target)


@pytest.mark.parametrize("value", [5, 5.5, "5", "12,500", 10**20, 1e-7])
def test_a_value_may_be_any_number(value: object) -> None:
    tool = Tool.of(convert)

    values = tool.call_form.check({"value": value, "from": "m", "to": "m"})

    assert Decimal(tool.call_form.call(tool.function, values)) == Decimal(str(value).replace(",", ""))


@pytest.mark.parametrize("value", [True, None, "x", float("inf"), float("nan"), [], "9" * 400, 10**301])
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ArgumentsError):
        Tool.of(convert).call_form.check({"value": value, "from": "m", "to": "m"})
