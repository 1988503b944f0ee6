"""The tools answer what the curriculum of the built-in model says they do: names, schemas, results, to the letter."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.executor import Executor
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool
from deepseek.agent.tools import KNOWN, builtin_tools
from deepseek.agent.tools.calculator import calculator
from deepseek.agent.tools.dates import date_tool, read_date
from deepseek.agent.tools.units import convert, find
from deepseek.core.messages import ToolCallPart
from deepseek.tenancy.database import TenantDatabases
from deepseek.training.curriculum import dates, schema
from deepseek.training.curriculum.arithmetic import in_signs
from deepseek.training.curriculum.mix import ASKS
from deepseek.training.curriculum.paraphrase import clocks, days, quantities, sums
from deepseek.training.curriculum.sample import render_tools
from deepseek.training.curriculum.several import WIDE
from deepseek.training.curriculum.trajectory import CANONICAL, CLOCK

LANGUAGES: list[Any] = ["en", "zh"]


def listed(tools: list[Tool]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]


def test_the_tools_are_rendered_to_the_text_that_was_trained() -> None:
    names = [spec.names[0] for spec in CANONICAL]
    trained = [schema.canonical_tool(spec) for spec in CANONICAL]
    assert set(names) == {*KNOWN, "clock"}
    assert render_tools(listed(builtin_tools(names))) == render_tools(trained)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_calculator_gives_the_curriculums_results(language: Any) -> None:
    rng = Random(1)
    for ask in [f(rng, language, False) for _ in range(400) for f in (sums.arithmetic_ask, sums.percent_ask)]:
        told = calculator(ask.arguments["expression"])
        if "e" in told:  # too small for ten decimals; the curriculum has no exponents
            assert abs(float(told)) < 1e-10
        elif len(ask.result.lstrip("-").replace(".", "")) > 15:
            assert float(told) == pytest.approx(float(ask.result), rel=1e-12)
        else:
            assert told == ask.result, ask.arguments


@pytest.mark.parametrize("language", LANGUAGES)
def test_basic_results_differ_only_in_how_many_decimals_they_keep(language: Any) -> None:
    rng = Random(2)
    for ask in [ASKS[family](rng, language, False) for _ in range(200) for family in ("arithmetic", "percentages")]:
        assert float(calculator(ask.arguments["expression"])) == pytest.approx(float(ask.result), abs=0.0051, rel=1e-9)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_people_type_as_an_expression_has_the_value_of_its_plain_form(language: Any) -> None:
    rng = Random(3)
    for _ in range(300):
        expression = sums.arithmetic_ask(rng, language, False).arguments["expression"]
        typed = in_signs(rng, expression)
        if "x" not in typed:  # between digits it could be the beginning of a name
            assert calculator(typed) == calculator(expression)


@pytest.mark.parametrize("language", LANGUAGES)
def test_conversions_are_the_curriculums(language: Any) -> None:
    rng = Random(4)
    for _ in range(600):
        ask = quantities.ask(rng, language, False)
        arguments = ask.arguments
        assert asyncio.run(_call("convert", arguments)) == ask.result, arguments


def test_every_unit_of_the_curriculum_is_one_the_tool_knows_by_symbol() -> None:
    for table in quantities.UNITS.values():
        for symbol in table:
            assert find(symbol).symbol == symbol


def test_conversions_take_exact_numbers() -> None:
    assert convert(Decimal("26.2"), "mi", "km") == "42.1648"


@pytest.mark.parametrize("language", LANGUAGES)
def test_dates_are_the_curriculums(language: Any) -> None:
    rng = Random(5)
    for _ in range(600):
        ask = days.ask(rng, language, False)
        if ask.arguments["date"] == "today":
            continue
        op = ask.operation.removeprefix("date_")
        told = asyncio.run(_call("date", {"op": op, **ask.arguments}))
        if op == "weekday":
            names = dates.WEEKDAYS["en"], dates.WEEKDAYS["zh"]
            assert any(name[names[0].index(told)] in ask.result for name in names)
        else:
            assert told == ask.result


def test_today_is_a_day_of_the_tools_own() -> None:
    at = date_tool(lambda: datetime(2026, 11, 24, 23, 30, tzinfo=UTC))
    assert at("add", "today", days=0) == "2026-11-24"
    assert at("weekday", "today") == "Tuesday"


@pytest.mark.parametrize("language", LANGUAGES)
def test_dates_as_people_write_them_are_read_alike(language: Any) -> None:
    rng = Random(6)

    def now() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    for _ in range(300):
        day = days.any_day(rng)
        written = days.written(rng, language, day)
        if written.isascii() and not written.startswith("the ") and written[0].isdigit():
            assert read_date(written, now) == day
    assert read_date("2024年2月29日", now) == date(2024, 2, 29)


def test_the_clock_says_what_the_curriculum_reads() -> None:
    now = datetime(2026, 11, 24, 17, 5, tzinfo=UTC)
    (tool,) = builtin_tools(["clock"], now=lambda: now)
    told = tool.function(zone="Tokyo")
    assert told == "2026-11-25 02:05 Wednesday Asia/Tokyo (UTC+09:00)"
    trained = clocks.ask(Random(1), "en", False).result.split(" ")
    assert [len(part) > 0 for part in trained] == [len(part) > 0 for part in told.split(" ")]
    assert schema.canonical_tool(CLOCK)["function"]["name"] == tool.name


def test_memory_answers_as_it_does_in_training(tmp_path: Path) -> None:
    tools = {tool.name: tool for tool in builtin_tools(["memory"], databases=TenantDatabases(tmp_path))}
    rng = Random(7)
    stored = {WIDE["memory"](rng, "en", False, False).result for _ in range(400)}

    async def talk() -> tuple[str, str, str]:
        context = ToolContext(tenant="someone")
        kept = await tools["memory_set"].function(key="dog's name", value="Rex", context=context)
        told = await tools["memory_get"].function(key="Dog's name", context=context)
        nothing = await tools["memory_get"].function(key="cat's name", context=context)
        return kept, told, nothing

    kept, told, nothing = asyncio.run(talk())
    assert told == "Rex"
    assert {kept, nothing} <= stored


async def _call(name: str, arguments: dict[str, Any]) -> str:
    """The tool's result for arguments as the model writes them."""
    executor = Executor(ToolRegistry(builtin_tools([name])))
    (result,) = await executor.run([ToolCallPart("1", name, json.dumps(arguments))])
    assert result.status == "ok", (arguments, result.text)
    return result.text
