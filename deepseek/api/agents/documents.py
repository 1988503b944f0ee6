"""A run and its events as they are shown: readings of what is recorded, the same whether it goes on or is long over.

What is the operator's (instructions, the tools' schemas) and what is only for replay and training (token ids, scores) is left
out, and so is what an unforeseen error says of the server's inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from deepseek.agent.events import event_fields
from deepseek.agent.rows import Recorded, RunRow, StoredEvent

RunStatus = Literal["running", "suspended", "finished", "limited", "failed", "cancelled"]

_HIDDEN = {
    "run_started": ("settings",),
    "model_asked": ("tools", "schema"),
    "model_answered": ("prompt_ids", "token_ids", "logprobs"),
}
_FORESEEN = re.compile(r"(Problem|ModelError|AdmissionError|AgentError|StoreError|ToolError|TenancyError): ")
_UNFORESEEN = "The run failed inside the server; the log has it under this run's id."
LOST = "The server ended while the run went on."


class AgentModel(BaseModel):
    """An agent. tools: their names."""

    id: str
    object: Literal["agent"]
    model: str
    tools: list[str]


class AgentList(BaseModel):
    object: Literal["list"]
    data: list[AgentModel]


class CallModel(BaseModel):
    """A call of a tool. arguments: as the model wrote them, as an object where they are one. result: None until there is
    one."""

    id: str
    name: str
    arguments: Any
    status: str | None
    result: str | None


class ApprovalModel(BaseModel):
    """What a person has to answer before the run goes on."""

    id: str
    call_id: str
    tool: str
    arguments: Any
    reason: str


class RunUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class RunModel(BaseModel):
    """A run. Times in seconds since 1970. steps: turns of the model. limit: which one stopped it. last_event: the number of
    its newest event."""

    id: str
    object: Literal["agent.run"]
    agent: str
    model: str
    status: RunStatus
    created_at: float
    changed_at: float
    conversation: str | None
    answer: str
    calls: list[CallModel]
    approvals: list[ApprovalModel]
    steps: int
    usage: RunUsage
    limit: str | None
    error: str | None
    last_event: Annotated[int, Field(ge=0)]


def run_document(row: RunRow, events: Iterable[StoredEvent], *, alive: bool) -> dict[str, Any]:
    """alive: whether the run goes on in this process; one that is said to run and does not was lost."""
    calls: dict[str, dict[str, Any]] = {}
    approvals: dict[str, dict[str, Any]] = {}
    answer, limit, error = "", None, None
    steps = prompt_tokens = completion_tokens = last = 0
    for event in events:
        data, last = event.data, event.seq
        if event.kind == "model_answered":
            steps += 1
            prompt_tokens += data["prompt_tokens"]
            completion_tokens += data["completion_tokens"]
            if data.get("purpose", "act") == "act":
                for part in data["message"]["parts"]:
                    if "call" in part:
                        calls[part["call"]] = _call(part)
        elif event.kind == "tool_finished" and data["call_id"] in calls:
            final = data["status"] != "suspended"
            calls[data["call_id"]] |= {"status": data["status"], "result": data["text"] if final else None}
        elif event.kind == "approval_asked":
            approvals[data["id"]] = {
                "id": data["id"],
                "call_id": data["call_id"],
                "tool": data["tool"],
                "arguments": _parsed(data["arguments"]),
                "reason": data["reason"],
            }
        elif event.kind == "approval_answered":
            approvals.pop(data["id"], None)
        elif event.kind == "limit_reached":
            limit = data["limit"]
        elif event.kind == "run_finished":
            answer = data["answer"]
        elif event.kind == "run_failed":
            error = None if data["cancelled"] else _shown_error(data["error"])
    lost = row.status == "running" and not alive
    return {
        "id": row.id,
        "object": "agent.run",
        "agent": row.agent,
        "model": row.model,
        "status": "failed" if lost else row.status,
        "created_at": row.started,
        "changed_at": row.changed,
        "conversation": row.conversation,
        "answer": answer,
        "calls": list(calls.values()),
        "approvals": list(approvals.values()) if row.status == "suspended" else [],
        "steps": steps,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
        "limit": limit,
        "error": LOST if lost else error,
        "last_event": last,
    }


def event_document(event: StoredEvent | Recorded) -> dict[str, Any]:
    """An event as it is sent: its number, its time, its kind, and the fields of that kind."""
    if isinstance(event, Recorded):
        kind, fields = event.event.kind, event_fields(event.event)
    else:
        kind, fields = event.kind, event.data
    hidden = _HIDDEN.get(kind, ())
    shown = {name: _plain(value) for name, value in fields.items() if name not in hidden}
    if kind == "run_failed":
        shown["error"] = _shown_error(str(shown["error"]))
    return {"seq": event.seq, "at": event.at, "kind": kind, **shown}


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": part["call"],
        "name": part["name"],
        "arguments": _parsed(part["arguments"]),
        "status": None,
        "result": None,
    }


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _plain(value: Any) -> Any:
    """A content that is written once stands for its value."""
    return getattr(value, "value", value)


def _shown_error(text: str) -> str:
    """What a foreseen error said, without the name of its class; nothing of any other."""
    match = _FORESEEN.match(text)
    return text[match.end() :] if match else _UNFORESEEN
