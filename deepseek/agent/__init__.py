"""Agents: they perceive (`perception`), decide (`decision`) and act (`execution`), and speak to a `LanguageModel` only.

    from deepseek.agent import Agent, ToolRegistry

Fronts are imported when first used, so that a front of one layer does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.agent.agent import Agent
    from deepseek.agent.decision.limits import Limits, Prices
    from deepseek.agent.decision.plan import Plan
    from deepseek.agent.errors import AgentError
    from deepseek.agent.execution.approval import Approval
    from deepseek.agent.execution.executor import Executor
    from deepseek.agent.execution.registry import ToolRegistry
    from deepseek.agent.execution.tool import Tool, ToolContext
    from deepseek.agent.memory import Memory
    from deepseek.agent.record import EventStore
    from deepseek.agent.run import RunResult
    from deepseek.agent.state import RunState

__all__ = [
    "Agent",
    "AgentError",
    "Approval",
    "EventStore",
    "Executor",
    "Limits",
    "Memory",
    "Plan",
    "Prices",
    "RunResult",
    "RunState",
    "Tool",
    "ToolContext",
    "ToolRegistry",
]

_FRONTS = {
    "Agent": "deepseek.agent.agent",
    "AgentError": "deepseek.agent.errors",
    "Approval": "deepseek.agent.execution.approval",
    "EventStore": "deepseek.agent.record",
    "Executor": "deepseek.agent.execution.executor",
    "Limits": "deepseek.agent.decision.limits",
    "Memory": "deepseek.agent.memory",
    "Plan": "deepseek.agent.decision.plan",
    "Prices": "deepseek.agent.decision.limits",
    "RunResult": "deepseek.agent.run",
    "RunState": "deepseek.agent.state",
    "Tool": "deepseek.agent.execution.tool",
    "ToolContext": "deepseek.agent.execution.tool",
    "ToolRegistry": "deepseek.agent.execution.registry",
}


def __getattr__(name: str) -> Any:
    if name in _FRONTS:
        return getattr(import_module(_FRONTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
