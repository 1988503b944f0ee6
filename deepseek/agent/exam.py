"""How well a model does through the agent's own loop what the built-in curriculum teaches.

The questions are `deepseek.training.curriculum`'s held-out ones, and so are the tools' results: each tool gives what the
curriculum computed for the call that is expected, and an error for any other. A run is right when its calls are exactly
the expected ones, in order, and its answer holds the fact; a question that is answered by a call alone ends with it.
Nothing is forced: whether there is a call is the model's choice, and what it wrote before is what it sees.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek.agent.agent import Agent
from deepseek.agent.decision.limits import Limits
from deepseek.agent.execution.errors import ToolFailed
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool
from deepseek.core.errors import DeepSeekError
from deepseek.core.language import LanguageModel
from deepseek.core.messages import Message, Part, TextPart, ToolCallPart, ToolResultPart
from deepseek.evaluation.families import Failure, Report, Score, contains
from deepseek.training.curriculum import AGENT_FAMILIES, FAMILIES, Sample, eval_draws
from deepseek.training.curriculum.sample import MISTAKE, dump_arguments

ALL_FAMILIES = (*FAMILIES, *AGENT_FAMILIES)
_Call = tuple[str, dict[str, Any]]


async def examine(
    model: LanguageModel,
    families: Iterable[str] = ALL_FAMILIES,
    draws: int = 400,
    phrasings: Sequence[str] = ("seen", "withheld"),
    seed: int = 0,
    kept_failures: int = 5,
    at_once: int = 16,
    on_progress: Callable[[str, int], None] | None = None,
) -> Report:
    """Score `model` on `draws` held-out questions a family and kind of phrasing, `at_once` runs at a time.

    on_progress is told after each family: its name, and how many questions are done. Raises ConfigError for an unknown
    family.
    """
    scores: list[Score] = []
    failures: list[Failure] = []
    done = 0
    gate = asyncio.Semaphore(at_once)

    async def answered(sample: Sample) -> tuple[bool, str]:
        async with gate:
            return await answer(model, sample)

    for family in families:
        for kind in phrasings:
            samples = eval_draws(family, None, draws, withheld_phrasings=kind == "withheld", seed=seed)
            answers = await asyncio.gather(*map(answered, samples))
            for language in ("both", "en", "zh"):
                counted = [a for a, s in zip(answers, samples, strict=True) if language in ("both", s.language)]
                scores.append(Score(family, language, kind, sum(right for right, _ in counted), len(counted)))
            wrong = [(s, said) for s, (right, said) in zip(samples, answers, strict=True) if not right]
            failures += [
                Failure(family, sample.language, sample.user_text, Expectation(sample).text, said)
                for sample, said in wrong[:kept_failures]
            ]
            done += draws
            if on_progress is not None:
                on_progress(family, done)
    return Report(tuple(scores), tuple(failures))


class Expectation:
    """What a sample expects after the user's last words: calls with their results, then an answer with the fact."""

    def __init__(self, sample: Sample) -> None:
        messages = sample.messages
        self.start = 1 + max(place for place, message in enumerate(messages) if message["role"] == "user")
        while self.start < len(messages) and messages[self.start].get(MISTAKE):
            self.start += 1 + len(messages[self.start]["tool_calls"])  # a slip stands there already, and its error
        self.calls: list[_Call] = []
        self.results: list[str] = []
        for message in messages[self.start :]:
            for call in message.get("tool_calls") or ():
                self.calls.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
            if message["role"] == "tool":
                self.results.append(str(message["content"]))
        self.turns = sum(message["role"] == "assistant" for message in messages[self.start :])
        self.ends_with_a_call = bool(messages[-1].get("tool_calls"))
        self.fact = "" if self.ends_with_a_call else sample.expected.fact

    @property
    def text(self) -> str:
        return " ".join([*(name + dump_arguments(arguments) for name, arguments in self.calls), self.fact]).strip()


async def answer(model: LanguageModel, sample: Sample) -> tuple[bool, str]:
    """Whether a run of an agent on the sample's question is right, and what it did."""
    expected = Expectation(sample)
    made: list[_Call] = []

    def tool(function: Any) -> Tool:
        name = str(function["name"])

        async def replay(**arguments: Any) -> str:
            place = len(made)
            made.append((name, arguments))
            if place >= len(expected.calls) or not _same(made[place], expected.calls[place]):
                raise ToolFailed("not expected")
            return expected.results[place] if place < len(expected.results) else "ok"

        return Tool(name, function["description"], function["parameters"], replay)

    registry = ToolRegistry([tool(listed["function"]) for listed in sample.tools])
    agent = Agent(model, registry, limits=Limits(steps=expected.turns, corrections=0))
    system = "\n\n".join(str(m["content"]) for m in sample.messages if m["role"] == "system")
    history = [_message(m) for m in sample.messages[: expected.start] if m["role"] != "system"]
    opening = [Message("system", (TextPart(system),))] if system else []
    try:
        result = await agent.run([*opening, *history])
    except DeepSeekError as error:
        return False, str(error)
    said = " ".join([*(name + dump_arguments(arguments) for name, arguments in made), result.answer]).strip()
    if len(made) != len(expected.calls) or not all(map(_same, made, expected.calls)):
        return False, said
    return expected.ends_with_a_call or contains(result.answer, expected.fact), said


def _same(one: _Call, other: _Call) -> bool:
    return one[0] == other[0] and json.dumps(one[1], sort_keys=True) == json.dumps(other[1], sort_keys=True)


def _message(message: Any) -> Message:
    parts: list[Part] = []
    if message["role"] == "tool":
        return Message("tool", (ToolResultPart("call_0", str(message["content"])),))
    if message.get("content"):
        parts.append(TextPart(str(message["content"])))
    for call in message.get("tool_calls") or ():
        parts.append(ToolCallPart(call["id"], call["function"]["name"], call["function"]["arguments"]))
    return Message(message["role"], tuple(parts))
