"""Calls that go wrong: made again as they were, made again mended, or given up and told."""

from __future__ import annotations

import re
from datetime import date
from random import Random
from typing import Any

from deepseek.training.curriculum import words
from deepseek.training.curriculum.paraphrase import days, quantities
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.several import WIDE
from deepseek.training.curriculum.trajectory import SCHEMA, TOOL, Step, Trajectory

_TRANSIENT = ("timed out after {n} s", "timeout", "service unavailable", "rate limit reached, try again", "temporarily unavailable", "too many requests", "connection reset", "busy, try again later", "the tool took longer than {n} s and was stopped", "not run: more than {n} calls at a time", "try again")  # fmt: skip
_PERMANENT = (
    "permission denied", "not supported", "out of range", "division by zero", "the number is too large", "no access", "the day is out of range", "not allowed", "refused", "disabled by the administrator", "quota exceeded for this month", "not configured", "unknown error", "the server answered 404", "internal error", "no search engine is configured",
    "the memory is full", "the exponent is too large; found 387420489; expected at most 1024", "refused by a person: not now", "the tool failed", "database is locked", "disk full", "the account is closed",
)  # fmt: skip
_MENDABLE = ("invalid argument", "cannot parse the arguments", "wrong arguments")
_PREFIX = ("error: ", "error: ", "error: ", "Error: ", "", "", "", "failed: ", "tool error: ")


def error_said(rng: Random, said: str) -> str:
    """An error as the loop passes it on."""
    if rng.random() < 0.08:
        return '{"error": "' + said.replace('"', "'") + '"}'
    return rng.choice(_PREFIX) + said


def retry(rng: Random, language: Language, withheld: bool) -> Trajectory:
    """A call that goes wrong: made again as it was, made again mended, or given up and told."""
    family = rng.choice(("arithmetic", "percentages", "units", "dates", "memory", "search", "units", "dates"))
    ask = WIDE[family](rng, language, withheld, False)
    step = Step.of(ask)
    drawn = rng.random()
    if drawn < 0.4:
        said = error_said(rng, rng.choice(_TRANSIENT).replace("{n}", str(rng.randint(1, 60))))
        failed = Step(ask.operation, ask.arguments, said)
        if rng.random() < 0.25:
            return Trajectory(
                ask.text, ask.phrasing + "/twice", ((failed,), (failed,)), told(language, said), told(language, said)
            )
        return Trajectory(ask.text, ask.phrasing + "/again", ((failed,), (step,)), ask.answer, ask.fact)
    if drawn < 0.75:
        wrong, said, name = _spoilt(rng, ask)
        failed = Step(ask.operation, wrong, error_said(rng, said), wrong=True, wrong_name=name)
        return Trajectory(ask.text, ask.phrasing + "/mended", ((failed,), (step,)), ask.answer, ask.fact)
    said = error_said(rng, rng.choice(_PERMANENT))
    failed = Step(ask.operation, ask.arguments, said)
    return Trajectory(ask.text, ask.phrasing + "/given up", ((failed,),), told(language, said), told(language, said))


def told(language: Language, said: str) -> str:
    """What the user hears of an error: its own words, without the prefix."""
    bare = re.sub(r'^(?:error|Error|failed|tool error): |^\{"error": "|"\}$', "", said)
    return f"The tool reported an error: {bare}." if language == "en" else f"工具报错：{bare}。"


_AGAIN = f"; expected {SCHEMA}. Fix: call it again with these"
_UNKNOWN_TOOL = (
    "there is no tool '{0}'",
    "Tool not found: {0}",
    "unknown tool {0}",
    "there is no tool '{0}'; there are: {1}",
)
_MISSING = (
    f"tool '{TOOL}': the arguments do not fit: {{0}}: missing", f"tool '{TOOL}': the arguments do not fit: {{0}}: missing{_AGAIN}",
    "missing argument: {0}", "{0}: missing", "{0} is missing", "'{0}' is a required property",
)  # fmt: skip
_NO_NUMBER = (
    f'tool \'{TOOL}\': the arguments do not fit: <value>: Value error, must be a number, found "{{0}}"', "<value>: must be a number, found '{0}'", "<value> must be a number",
)  # fmt: skip
_NO_UNIT = (
    "unknown unit '{0}'",
    "unknown unit '{0}'; expected perhaps {1}",
    "unknown unit '{0}'; expected one of {2}",
    "no unit {0}",
)
_NO_DATE = (
    "not a date: '{0}'; expected YYYY-MM-DD or today", "not a date: '{0}'; expected YYYY-MM-DD", "'{0}' is no date", "invalid date format, use YYYY-MM-DD", "<date>: found '{0}', expected YYYY-MM-DD or today",
)  # fmt: skip
_NO_EXPRESSION = ("syntax error", "not an arithmetic expression", "unexpected '{0}'", "a parenthesis is not closed", "cannot parse the expression", "unexpected end of the expression")  # fmt: skip

Spoilt = tuple[dict[str, Any], str, str]
"""Arguments, what the tool says to them, and another tool's name if that is the slip."""


def _spoilt(rng: Random, ask: Ask) -> Spoilt:
    """A call with a slip that a model makes."""
    arguments = dict(ask.arguments)
    if rng.random() < 0.12:
        name = rng.choice(("calc", "search", "convert_units", "get_memory", "tool", words.identifier(rng)))
        return arguments, rng.choice(_UNKNOWN_TOOL).format(name, f"{TOOL}, clock"), name
    if rng.random() < 0.25 and arguments:
        gone = rng.choice(tuple(arguments))
        del arguments[gone]
        return arguments, rng.choice(_MISSING).format(f"<{gone}>"), ""
    if ask.operation == "convert":
        return _spoilt_conversion(rng, arguments)
    if ask.operation.startswith("date") and arguments["date"] != "today":
        day = date.fromisoformat(str(arguments["date"]))
        arguments["date"] = days.written(rng, rng.choice(("en", "zh")), day)
        return arguments, rng.choice(_NO_DATE).format(arguments["date"]), ""
    if ask.operation == "calculate":
        expression = str(arguments["expression"])
        signs = expression.replace("*", "times").replace("/", "over")
        arguments["expression"] = rng.choice(
            (expression + ")", signs, "= " + expression, expression + " =", expression + " +")
        )
        return arguments, rng.choice(_NO_EXPRESSION).format(arguments["expression"][-1]), ""
    return arguments, rng.choice(_MENDABLE), ""


def _spoilt_conversion(rng: Random, arguments: dict[str, Any]) -> Spoilt:
    if rng.random() < 0.3:
        arguments["value"] = rng.choice((f"{arguments['value']} {arguments['from']}", "x", f"~{arguments['value']}"))
        return arguments, rng.choice(_NO_NUMBER).format(arguments["value"]), ""
    side = rng.choice(("from", "to"))
    right = str(arguments[side])
    dimension = quantities.dimension_of(right)
    arguments[side] = quantities.unit_name(rng, rng.choice(("en", "zh")), dimension, right)
    if rng.random() < 0.5:
        arguments[side] = words.invented_word(rng)
    some = ", ".join(list(quantities.UNITS[dimension])[:8])
    return arguments, rng.choice(_NO_UNIT).format(arguments[side], right, some), ""
