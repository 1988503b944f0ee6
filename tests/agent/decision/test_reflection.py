"""A second look at an answer: what the model finds wrong is told to it, as often as may be."""

from __future__ import annotations

import asyncio
from typing import Any

from deepseek.agent import Agent
from deepseek.agent.decision.reflection import read_verdict
from deepseek.agent.testing import ScriptedModel
from deepseek.core.deltas import TextDelta


def test_an_answer_that_is_found_wrong_is_given_again() -> None:
    verdicts = ['{"ok": false, "problem": "it is 4"}', '{"ok": true, "problem": ""}']

    def said(asked: Any) -> str:
        return verdicts.pop(0) if asked.schema else ("It is 4." if "it is 4" in asked.messages[-1].text else "It is 5.")

    result = asyncio.run(Agent(ScriptedModel(*[said] * 4), reflections=2).run("2 + 2?"))
    assert result.answer == "It is 4." and result.turns == 4 and verdicts == []


def test_a_stream_shows_answers_and_not_what_the_model_says_of_them() -> None:
    def said(asked: Any) -> str:
        return '{"ok": true, "problem": ""}' if asked.schema else "It is 4."

    async def main() -> list[Any]:
        return [piece async for piece in Agent(ScriptedModel(said, said), reflections=1).run_stream("2 + 2?")]

    assert [piece.text for piece in asyncio.run(main()) if isinstance(piece, TextDelta)] == ["It is 4."]


def test_a_second_look_has_an_end() -> None:
    def said(asked: Any) -> str:
        return '{"ok": false, "problem": "no"}' if asked.schema else "It is 5."

    result = asyncio.run(Agent(ScriptedModel(*[said] * 9), reflections=2).run("2 + 2?"))
    assert (result.status, result.answer, result.turns) == ("finished", "It is 5.", 5)


def test_what_is_no_verdict_leaves_the_answer_as_it_is() -> None:
    assert read_verdict("I think so").ok and read_verdict('{"problem": 3}').ok and not read_verdict('{"ok": false}').ok
