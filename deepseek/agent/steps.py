"""The steps of a run: its one record in memory. What the model is shown, what was called, what a person reads of it, and
the state of a run that is put away are readings of this list.

A run whose last step is the model's, with calls, has these calls still to do: that is how it goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepseek.agent.encode import message_json, message_of, result_json, result_of
from deepseek.agent.errors import AgentError
from deepseek.agent.execution.results import ToolResult
from deepseek.core.engine import Usage
from deepseek.core.language import TurnEnd
from deepseek.core.messages import Message, TextPart, ToolCallPart

Origin = Literal["user", "memory", "correction", "reflection", "plan", "summary"]
"""Whose words a step holds: the user's, an earlier run's, or the loop's own, said to the model in the user's place."""


@dataclass(frozen=True, slots=True)
class SaidStep:
    """Something said to the model."""

    message: Message
    origin: Origin = "user"


@dataclass(frozen=True, slots=True)
class ModelStep:
    """A turn of the model."""

    message: Message
    end: TurnEnd
    usage: Usage
    cut: bool = False

    @property
    def calls(self) -> list[ToolCallPart]:
        return [part for part in self.message.parts if isinstance(part, ToolCallPart)]


@dataclass(frozen=True, slots=True)
class ToolStep:
    """What came of the calls of the turn before, in their order."""

    results: tuple[ToolResult, ...]
    message: Message = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", Message("tool", tuple([result.part() for result in self.results])))


@dataclass(frozen=True, slots=True)
class SummaryStep:
    """A summary of all that was said before. From here on the model is shown it instead, and what `kept` holds."""

    text: str
    kept: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        said = Message("user", (TextPart(f"Summary of the conversation so far:\n{self.text}"),))
        return (said, *self.kept) if self.text else self.kept


Step = SaidStep | ModelStep | ToolStep | SummaryStep


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call and what came of it, as users read it."""

    id: str
    name: str
    arguments: str
    result: ToolResult | None


def conversation(steps: Sequence[Step]) -> list[Message]:
    """What the model is shown, its instructions left out."""
    shown: list[Message] = []
    for step in steps:
        show(shown, step)
    return shown


def show(shown: list[Message], step: Step) -> None:
    """What the model is shown after one more step."""
    if isinstance(step, SummaryStep):
        shown[:] = step.messages
    else:
        shown.append(step.message)


def open_calls(steps: Sequence[Step]) -> list[ToolCallPart]:
    """Calls that were made and not answered yet."""
    return steps[-1].calls if steps and isinstance(steps[-1], ModelStep) else []


def call_records(steps: Sequence[Step]) -> list[CallRecord]:
    results = {result.call_id: result for step in steps if isinstance(step, ToolStep) for result in step.results}
    return [
        CallRecord(call.id, call.name, call.arguments, results.get(call.id))
        for step in steps
        if isinstance(step, ModelStep)
        for call in step.calls
    ]


def step_json(step: Step) -> dict[str, Any]:
    match step:
        case SaidStep(message, origin):
            return {"step": "said", "message": message_json(message), "origin": origin}
        case ModelStep(message, end, usage, cut):
            counts = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
            return {"step": "model", "message": message_json(message), "end": end, "usage": counts, "cut": cut}
        case ToolStep(results):
            return {"step": "tools", "results": [result_json(result) for result in results]}
        case SummaryStep(text, kept):
            return {"step": "summary", "text": text, "kept": [message_json(message) for message in kept]}


def step_of(value: dict[str, Any]) -> Step:
    """Raises AgentError for what `step_json` did not write."""
    try:
        match value["step"]:
            case "said":
                return SaidStep(message_of(value["message"]), value["origin"])
            case "model":
                return ModelStep(message_of(value["message"]), value["end"], Usage(*value["usage"]), value["cut"])
            case "tools":
                return ToolStep(tuple(result_of(result) for result in value["results"]))
            case "summary":
                return SummaryStep(value["text"], tuple(message_of(message) for message in value["kept"]))
    except (KeyError, TypeError) as error:
        raise AgentError("not a step", found=f"{type(error).__name__}: {error}"[:200]) from None
    raise AgentError("not a step", found=repr(value["step"])[:80])
