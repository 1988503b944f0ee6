"""Calls, executors that keep what they record, and a clock that tests turn themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from deepseek.agent import Executor, ToolContext, ToolRegistry
from deepseek.agent.execution.results import ToolResult
from deepseek.core.messages import ToolCallPart

Event = tuple[str, dict[str, Any]]


def call(name: str, id: str | None = None, /, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(name if id is None else id, name, json.dumps(arguments))


class Run:
    """An executor of a few functions, and everything that it recorded."""

    def __init__(self, registry: ToolRegistry | Any, **options: Any) -> None:
        self.events: list[Event] = []
        self.executor = Executor(registry, record=self._record, **options)

    def _record(self, kind: str, **fields: Any) -> None:
        json.dumps(fields, allow_nan=False)  # what is recorded is JSON's values
        self.events.append((kind, fields))

    def __call__(self, *calls: ToolCallPart, **options: Any) -> list[ToolResult]:
        options.setdefault("context", ToolContext(tenant="acme", run_id="run"))
        return bounded(self.executor.run(calls, **options))

    def kinds(self, call_id: str | None = None) -> list[str]:
        return [kind for kind, fields in self.events if call_id is None or fields["call_id"] == call_id]


def bounded(work: Coroutine[Any, Any, Any], seconds: float = 20.0) -> Any:
    """Run it in a loop of its own; a test that hangs fails."""
    return asyncio.run(asyncio.wait_for(work, seconds))


def registry_of(*functions: Callable[..., Any], **options: Any) -> ToolRegistry:
    registry = ToolRegistry()
    for function in functions:
        registry.register(function.__name__, function, **options)
    return registry


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
