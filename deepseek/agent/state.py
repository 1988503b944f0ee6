"""A run that is put away: all it needs to go on later, in another process, as JSON.

The calls that have come to an end are in it with their results, so none runs twice; those that wait for a person are in it
with what the person is asked. A state is for the agent and the tenant it came from, and for one going-on: where there is a
store, it can be taken up once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek.agent.encode import result_json, result_of
from deepseek.agent.errors import AgentError
from deepseek.agent.execution.approval import ApprovalRequest
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.steps import Step, step_json, step_of

VERSION = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """seq: how many events the run has. waiting: results of the calls of its last turn so far, by call id. children: states
    of agents that its calls asked, by call id. extra: what the loop keeps of itself."""

    run_id: str
    agent: str
    tenant: str
    seq: int
    steps: tuple[Step, ...]
    waiting: Mapping[str, ToolResult] = field(default_factory=dict)
    spent: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    children: Mapping[str, str] = field(default_factory=dict)
    conversation: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def approvals(self) -> list[ApprovalRequest]:
        """What a person has to answer."""
        return [result.approval for result in self.waiting.values() if result.approval is not None]

    def to_json(self) -> str:
        value = {
            "version": VERSION,
            "run_id": self.run_id,
            "agent": self.agent,
            "tenant": self.tenant,
            "seq": self.seq,
            "steps": [step_json(step) for step in self.steps],
            "waiting": {call_id: result_json(result) for call_id, result in self.waiting.items()},
            "spent": dict(self.spent),
            "plan": self.plan,
            "children": dict(self.children),
            "conversation": self.conversation,
            "extra": dict(self.extra),
        }
        return json.dumps(value, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RunState:
        """Raises AgentError for what `to_json` did not write."""
        try:
            value = json.loads(text)
            if value["version"] != VERSION:
                raise AgentError("a run of another version", found=value["version"], expected=VERSION)
            return cls(
                str(value["run_id"]),
                str(value["agent"]),
                str(value["tenant"]),
                int(value["seq"]),
                tuple(step_of(step) for step in value["steps"]),
                {call_id: result_of(result) for call_id, result in value["waiting"].items()},
                value["spent"],
                value["plan"],
                value["children"],
                value["conversation"],
                value["extra"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AgentError("not a run that was put away", found=f"{type(error).__name__}: {error}"[:200]) from None
