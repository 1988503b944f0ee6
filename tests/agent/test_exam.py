"""The exam through the agent's loop: a model that says the right things passes, and every kind of slip fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from deepseek.agent.exam import ALL_FAMILIES, Expectation, answer, examine
from deepseek.agent.testing import Asked, Say, ScriptedModel, calls
from deepseek.core.errors import ConfigError
from deepseek.training.curriculum import Sample, eval_draws


def right_turns(sample: Sample) -> list[Say]:
    """What a perfect model says after the user's last words."""
    turns = []
    for message in sample.messages[Expectation(sample).start :]:
        if message["role"] == "assistant":
            made = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
            turns.append(Say(message["content"] or "", tuple(made)))
    return turns


def script(sample: Sample, turns: list[Any]) -> ScriptedModel:
    """A model that says `turns`, whatever stands in the conversation before."""
    earlier = sum(m["role"] == "assistant" for m in sample.messages[: Expectation(sample).start])
    return ScriptedModel(*["" for _ in range(earlier)], *turns)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_curriculums_own_turns_pass_in_every_family(family: str) -> None:
    for sample in eval_draws(family, None, 12):
        right, said = asyncio.run(answer(script(sample, right_turns(sample)), sample))
        assert right, (sample.user_text, Expectation(sample).text, said)


def test_a_wrong_argument_a_missing_call_and_a_call_too_many_fail() -> None:
    sample = next(s for s in eval_draws("parallel", "en", 20) if len(Expectation(s).calls) == 2)
    good = right_turns(sample)
    first, second = good[0].calls
    wrong = (first[0], json.dumps({**json.loads(str(first[1])), "x": 1}))
    for made in ((wrong, second), (first,), (first, second, second), (second, first)):
        right, _ = asyncio.run(answer(script(sample, [calls(*made), *good[1:]]), sample))
        assert not right


def test_a_wrong_answer_after_the_right_call_fails() -> None:
    sample = eval_draws("single", "en", 1)[0]
    turns = [*right_turns(sample)[:-1], Say("I do not know.")]
    assert not asyncio.run(answer(script(sample, turns), sample))[0]


def test_a_tool_gives_what_the_curriculum_computed() -> None:
    sample = next(s for s in eval_draws("chained", "en", 20) if len(Expectation(s).calls) == 2)
    expected = Expectation(sample)
    seen: list[str] = []

    def second(asked: Asked) -> Say:
        seen.append(asked.messages[-1].parts[0].text)  # type: ignore[union-attr]
        return right_turns(sample)[1]

    turns = right_turns(sample)
    asyncio.run(answer(script(sample, [turns[0], second, turns[2]]), sample))
    assert seen == [expected.results[0]]


def test_a_slip_that_stands_in_the_conversation_is_not_asked_for() -> None:
    sample = next(s for s in eval_draws("retry", "en", 60) if any(m.get("mistake") for m in s.messages))
    expected = Expectation(sample)
    assert len(expected.calls) == 1 and expected.start > 2


def test_the_report_counts_languages_and_keeps_failures() -> None:
    report = asyncio.run(examine(ScriptedModel("Nonsense."), ["greetings", "no_tool"], 6, ("seen",), kept_failures=2))
    assert [(s.family, s.language, s.correct, s.total) for s in report.scores] == [
        ("greetings", "both", 0, 6), ("greetings", "en", 0, 3), ("greetings", "zh", 0, 3),
        ("no_tool", "both", 0, 6), ("no_tool", "en", 0, 3), ("no_tool", "zh", 0, 3),
    ]  # fmt: skip
    assert len(report.failures) == 4


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="'poetry'"):
        asyncio.run(examine(ScriptedModel("x"), ["poetry"], 1))
