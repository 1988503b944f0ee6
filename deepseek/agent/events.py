"""What happens in a run, as small typed events that are only ever added. Trace, replay and training read these.

Fields named in `kept` hold what may be large or come again: they are stored once by the hash of their content, so that a
run's record grows with what is new in it and not with its square. Times are in milliseconds, sizes in tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar

from deepseek.agent.encode import message_json
from deepseek.core.messages import Message


class Content:
    """Something large that many events hold: written out and hashed once. value: JSON's values."""

    __slots__ = ("_digest", "_text", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._text: str | None = None
        self._digest = b""

    def written(self) -> tuple[bytes, str]:
        """Its hash, and its JSON."""
        if self._text is None:
            text = json.dumps(self.value, ensure_ascii=False, default=str).encode("utf-8", "replace")
            self._digest, self._text = hashlib.sha256(text).digest(), text.decode()
        return self._digest, self._text


@dataclass(frozen=True, slots=True)
class Event:
    """kind: its name where it is stored and sent."""

    kind: ClassVar[str] = ""
    kept: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run begins. parent: of a run that another one's call asked for: run id and call id."""

    kind: ClassVar[str] = "run_started"
    kept: ClassVar[tuple[str, ...]] = ("settings",)
    agent: str
    model: str
    settings: Mapping[str, Any]
    parent: str | None = None
    conversation: str | None = None


@dataclass(frozen=True, slots=True)
class Said(Event):
    """Something was said to the model; see `steps.Origin`."""

    kind: ClassVar[str] = "said"
    kept: ClassVar[tuple[str, ...]] = ("message",)
    origin: str
    message: Message


@dataclass(frozen=True, slots=True)
class ModelAsked(Event):
    """A turn is asked for, after all that was said and answered before. messages: how many it is shown. purpose: act, or
    plan or reflect, whose turns are no part of the conversation that follows."""

    kind: ClassVar[str] = "model_asked"
    kept: ClassVar[tuple[str, ...]] = ("tools", "schema")
    step: int
    messages: int
    tools: Content
    schema: Mapping[str, Any] | None = None
    purpose: str = "act"


@dataclass(frozen=True, slots=True)
class ModelAnswered(Event):
    """prompt_ids, token_ids, logprobs, seed, weights_version: what a replay or a trainer needs, where the model tells."""

    kind: ClassVar[str] = "model_answered"
    kept: ClassVar[tuple[str, ...]] = ("message", "prompt_ids", "token_ids", "logprobs")
    step: int
    message: Message
    end: str
    cut: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: float
    cost: float = 0.0
    seed: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    weights_version: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFailed(Event):
    """The model did not answer; it is asked again after pause_s, or never (None)."""

    kind: ClassVar[str] = "model_failed"
    step: int
    error: str
    attempt: int
    pause_s: float | None


@dataclass(frozen=True, slots=True)
class ToolStarted(Event):
    kind: ClassVar[str] = "tool_started"
    kept: ClassVar[tuple[str, ...]] = ("arguments",)
    call_id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class ToolRetried(Event):
    kind: ClassVar[str] = "tool_retried"
    call_id: str
    name: str
    attempt: int
    pause_s: float
    text: str


@dataclass(frozen=True, slots=True)
class ToolFinished(Event):
    """What came of a call; see `execution.results.ToolResult`. A suspended one is not over."""

    kind: ClassVar[str] = "tool_finished"
    kept: ClassVar[tuple[str, ...]] = ("text",)
    call_id: str
    name: str
    status: str
    text: str
    error: str | None
    attempts: int
    cached: bool
    truncated: bool
    duration_ms: float
    approval_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolNoted(Event):
    """Something else that the executor tells of a call."""

    kind: ClassVar[str] = "tool_noted"
    kept: ClassVar[tuple[str, ...]] = ("fields",)
    what: str
    call_id: str
    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApprovalAsked(Event):
    kind: ClassVar[str] = "approval_asked"
    kept: ClassVar[tuple[str, ...]] = ("arguments",)
    id: str
    call_id: str
    tool: str
    arguments: str
    reason: str


@dataclass(frozen=True, slots=True)
class ApprovalAnswered(Event):
    kind: ClassVar[str] = "approval_answered"
    id: str
    approved: bool
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class PlanMade(Event):
    """A plan, or a new one after a failure."""

    kind: ClassVar[str] = "plan_made"
    kept: ClassVar[tuple[str, ...]] = ("plan",)
    plan: Mapping[str, Any]
    again: bool = False


@dataclass(frozen=True, slots=True)
class Reflected(Event):
    """The model looked at its answer. problem: what it found wrong with it; empty where it stands."""

    kind: ClassVar[str] = "reflected"
    ok: bool
    problem: str


@dataclass(frozen=True, slots=True)
class Summarised(Event):
    """What was said so far is shown in short from now on."""

    kind: ClassVar[str] = "summarised"
    kept: ClassVar[tuple[str, ...]] = ("text",)
    messages: int
    text: str


@dataclass(frozen=True, slots=True)
class LimitReached(Event):
    kind: ClassVar[str] = "limit_reached"
    limit: str


@dataclass(frozen=True, slots=True)
class RunSuspended(Event):
    """It waits for a person: for answers to these requests."""

    kind: ClassVar[str] = "run_suspended"
    approvals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunResumed(Event):
    kind: ClassVar[str] = "run_resumed"


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """status: finished or limited."""

    kind: ClassVar[str] = "run_finished"
    kept: ClassVar[tuple[str, ...]] = ("answer",)
    status: str
    answer: str
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class RunFailed(Event):
    """error: what was raised. cancelled: whether somebody stopped it."""

    kind: ClassVar[str] = "run_failed"
    error: str
    cancelled: bool = False


def _only(names: tuple[str, ...]) -> Callable[[Event], tuple[Any, ...]]:
    """The values of an event that has one field, or none."""
    return lambda event: tuple(getattr(event, name) for name in names)


_ALL: tuple[type[Event], ...] = (
    RunStarted,
    Said,
    ModelAsked,
    ModelAnswered,
    ModelFailed,
    ToolStarted,
    ToolRetried,
    ToolFinished,
    ToolNoted,
    ApprovalAsked,
    ApprovalAnswered,
    PlanMade,
    Reflected,
    Summarised,
    LimitReached,
    RunSuspended,
    RunResumed,
    RunFinished,
    RunFailed,
)
KINDS: dict[str, type[Event]] = {event.kind: event for event in _ALL}
_FIELDS = {event.kind: tuple(field.name for field in fields(event)) for event in _ALL}
# One call for all fields: a store writes thousands of events a second.
_VALUES: dict[str, Callable[[Event], tuple[Any, ...]]] = {
    event.kind: attrgetter(*names) if len(names := _FIELDS[event.kind]) > 1 else _only(names) for event in _ALL
}
_NOT_JSON = {"message", "tools"}


def event_fields(event: Event) -> dict[str, Any]:
    """All fields as JSON's values."""
    written = dict(zip(_FIELDS[event.kind], _VALUES[event.kind](event), strict=True))
    for name in _NOT_JSON & written.keys():
        value = written[name]
        written[name] = message_json(value) if isinstance(value, Message) else value.value
    return written


def event_json(event: Event) -> dict[str, Any]:
    """The same, with its `kind`."""
    return {"kind": event.kind, **event_fields(event)}
