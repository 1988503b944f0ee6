"""Plans: steps with the tools they need and what must come before them, asked for under a JSON schema.

    {"steps": [{"id": "1", "task": "look up the price", "tool": "web_search", "depends": []}, ...]}

The schema names the tools there are, so a plan cannot ask for others. That dependencies are met by earlier steps, and go
in no circle, no schema can say: it is checked, and the model told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deepseek.agent.decision.final import OutputFault
from deepseek.core.messages import ToolCallPart, ToolSpec

MAX_STEPS = 12
MAX_TASK_CHARS = 300


class PlanStep(BaseModel):
    """tool: the one it needs; None: none, the model does it itself. depends: ids of steps that must be done before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    task: str
    tool: str | None = None
    depends: tuple[str, ...] = ()


class Plan(BaseModel):
    """What is to be done, in an order in which each step comes after those it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: tuple[PlanStep, ...]

    def waves(self) -> list[list[PlanStep]]:
        """Steps that can be done at the same time, one list after the other."""
        sorter = TopologicalSorter({step.id: step.depends for step in self.steps})
        sorter.prepare()
        by_id = {step.id: step for step in self.steps}
        waves = []
        while sorter.is_active():
            ready = sorter.get_ready()
            waves.append([by_id[one] for one in sorted(ready, key=list(by_id).index)])
            sorter.done(*ready)
        return waves

    def text(self) -> str:
        """As the model is shown it."""
        lines = []
        for step in self.steps:
            tool = f" [{step.tool}]" if step.tool else ""
            after = f" (after {', '.join(step.depends)})" if step.depends else ""
            lines.append(f"{step.id}. {step.task}{tool}{after}")
        return "\n".join(lines)

    def order_of(self, calls: Sequence[ToolCallPart], done: Sequence[str] = ()) -> dict[str, list[str]]:
        """Which of the calls of one turn must wait for which: call id -> ids of calls.

        A call belongs to the first step of its tool that no earlier call, nor one of `done` (names of tools that ran
        before), belongs to. It waits for the calls of the steps that its own depends on, directly or by way of others.
        """
        free = [step for step in self.steps if step.tool is not None]
        for name in done:
            _take(free, name)
        owner: dict[str, str] = {}  # step -> call
        step_of: dict[str, PlanStep] = {}
        for call in calls:
            step = _take(free, call.name)
            if step is not None:
                owner[step.id], step_of[call.id] = call.id, step
        before = self._before()
        order = {}
        for call_id, step in step_of.items():
            waits = [owner[one] for one in sorted(before[step.id]) if one in owner]
            if waits:
                order[call_id] = waits
        return order

    def _before(self) -> dict[str, set[str]]:
        """For each step, all that must be done before."""
        found: dict[str, set[str]] = {}
        for step in self.steps:
            found[step.id] = set(step.depends).union(*(found[one] for one in step.depends))
        return found


def _take(free: list[PlanStep], name: str) -> PlanStep | None:
    for index, step in enumerate(free):
        if step.tool == name:
            return free.pop(index)
    return None


def plan_schema(
    tools: Sequence[ToolSpec], most_steps: int = MAX_STEPS, task_chars: int = MAX_TASK_CHARS
) -> dict[str, Any]:
    """The JSON schema of a plan with these tools. Ids are numbers as text."""
    step: dict[str, Any] = {
        "type": "object",
        "properties": {
            "id": {"enum": [str(number) for number in range(1, most_steps + 1)]},
            "task": {"type": "string", "minLength": 1, "maxLength": task_chars},
            "tool": {"enum": [*(tool.name for tool in tools), None]},
            "depends": {
                "type": "array",
                "items": {"enum": [str(number) for number in range(1, most_steps)]},
                "maxItems": most_steps - 1,
            },
        },
        "required": ["id", "task", "tool", "depends"],
        "additionalProperties": False,
    }
    if most_steps == 1:
        step["properties"]["depends"] = {"type": "array", "maxItems": 0}
    return {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": step, "minItems": 1, "maxItems": most_steps}},
        "required": ["steps"],
        "additionalProperties": False,
    }


def read_plan(text: str, tools: Sequence[ToolSpec]) -> Plan:
    """The plan that an answer says, its steps in an order that can be gone by. Raises OutputFault, for the model."""
    try:
        plan = Plan.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise OutputFault(f"The plan does not fit: {'.'.join(map(str, found['loc']))}: {found['msg']}.") from None
    names = {tool.name for tool in tools}
    ids = [step.id for step in plan.steps]
    if not ids or len(set(ids)) < len(ids):
        raise OutputFault("A plan has at least one step, and each an id of its own.")
    for step in plan.steps:
        if step.tool is not None and step.tool not in names:
            raise OutputFault(f"Step {step.id} needs a tool that there is not: {step.tool}.")
        unknown = sorted(set(step.depends) - set(ids))
        if unknown:
            raise OutputFault(f"Step {step.id} depends on steps that there are not: {', '.join(unknown)}.")
    graph: Mapping[str, Sequence[str]] = {step.id: step.depends for step in plan.steps}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError:
        raise OutputFault("Steps of the plan depend on each other in a circle.") from None
    # As written, where that can be gone by.
    if all(set(step.depends) <= set(ids[:at]) for at, step in enumerate(plan.steps)):
        return plan
    by_id = {step.id: step for step in plan.steps}
    return Plan(steps=tuple(by_id[one] for one in order))


PLAN_PROMPT = (
    "Make a plan for the task below, as JSON: steps with an id, what to do, the tool it needs (or null), and the ids of the "
    "steps it depends on. Do not do it yet."
)
"""Said before the task."""
