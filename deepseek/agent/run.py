"""One run on its way: what the loop changes as it goes. It belongs to one call of `Agent.run`, never to the agent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from deepseek.agent.decision.final import OutputForm
from deepseek.agent.decision.limits import Limit, Limits, Spent
from deepseek.agent.decision.plan import Plan
from deepseek.agent.events import Content, Said
from deepseek.agent.execution.approval import Approval, ApprovalRequest
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.record import RunRecord
from deepseek.agent.state import RunState
from deepseek.agent.steps import CallRecord, Origin, SaidStep, Step, call_records, show
from deepseek.core.deltas import Delta
from deepseek.core.engine import Usage
from deepseek.core.messages import Message, TextPart, ToolSpec

Status = Literal["finished", "suspended", "limited"]
Emit = Callable[[Delta], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    status: finished: there is an answer; suspended: it waits for a person, see `approvals`, and goes on with
    `Agent.resume(result.state, ...)`; limited: `limit` stopped it. output: of the type that was asked for; None unless
    finished. answer: the text of its last turn, whatever that is worth.
    """

    run_id: str
    status: Status
    answer: str
    output: Any
    steps: tuple[Step, ...]
    usage: Usage
    cost: float = 0.0
    seconds: float = 0.0
    turns: int = 0
    limit: Limit | None = None
    plan: Plan | None = None
    state: RunState | None = None

    @property
    def calls(self) -> list[CallRecord]:
        """All calls of its tools, with their results."""
        return call_records(self.steps)

    @property
    def approvals(self) -> list[ApprovalRequest]:
        """What a person has to answer before it can go on."""
        return [] if self.state is None else self.state.approvals


@dataclass(slots=True)
class Run:
    """steps are added by `add`. shown: what the model is shown of them. call_ids: of all calls so far. emit: gets what the
    model says, as it says it. room: waits until whoever reads it has caught up. opening: what is said first. parent: id of
    the run whose call asked for it. deadline: of `time.monotonic()`. waiting: results of the last turn's calls while some
    wait for a person. children: states of agents that its calls asked, by call id, which wait too. remembered: how many
    of its steps come from memory. depth: how many agents asked each other to come to it. listed: its tools, as they were
    recorded last."""

    id: str
    tenant: str
    limits: Limits
    record: RunRecord
    form: OutputForm
    emit: Emit | None = None
    room: Callable[[], Awaitable[None]] | None = None
    opening: list[tuple[Message, Origin]] = field(default_factory=list)
    parent: str | None = None
    steps: list[Step] = field(default_factory=list)
    shown: list[Message] = field(default_factory=list)
    call_ids: set[str] = field(default_factory=set)
    spent: Spent = field(default_factory=Spent)
    begun: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    corrections: int = 0
    reflections: int = 0
    replans: int = 0
    plan: Plan | None = None
    waiting: dict[str, ToolResult] = field(default_factory=dict)
    approvals: Mapping[str, Approval] = field(default_factory=dict)
    children: dict[str, str] = field(default_factory=dict)
    conversation: str | None = None
    remembered: int = 0
    depth: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[Sequence[ToolSpec], Content] | None = None

    @property
    def seconds(self) -> float:
        """It has been running, over all its goings-on."""
        return self.spent.seconds + time.monotonic() - self.begun

    def add(self, step: Step) -> None:
        self.steps.append(step)
        show(self.shown, step)

    def say(self, message: Message, origin: Origin) -> None:
        self.add(SaidStep(message, origin))
        self.record.add(Said(origin, message))

    def correct(self, text: str) -> None:
        """Tell the model of a fault of its own."""
        self.corrections += 1
        self.say(Message("user", (TextPart(text),)), "correction")

    def result(self, status: Status, answer: str, output: Any = None, limit: Limit | None = None) -> RunResult:
        self.spent.seconds, self.begun = self.seconds, time.monotonic()
        return RunResult(
            self.id,
            status,
            answer,
            output,
            tuple(self.steps),
            self.spent.usage,
            self.spent.cost,
            self.spent.seconds,
            self.spent.steps,
            limit,
            self.plan,
        )


CURRENT: ContextVar[Run | None] = ContextVar("agent_run", default=None)
"""The run that a tool is called in: an agent that is asked as a tool of another belongs to it."""


def new_run_id() -> str:
    return "run_" + secrets.token_hex(12)
