"""What all steps of an executor share: its bounds, its tools, and who is told and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deepseek.agent.execution.cache import ToolCache
from deepseek.agent.execution.hooks import ToolHooks
from deepseek.agent.execution.invoke import DEFAULT_GRACE_S, DEFAULT_STUCK, Invoker
from deepseek.agent.execution.names import own_name
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.results import error_text
from deepseek.agent.execution.retry import RetryPolicy
from deepseek.agent.execution.threads import DEFAULT_THREADS
from deepseek.agent.execution.tool import Tool, Toolset

Record = Callable[..., None]
"""`record(event_kind, **fields)`: is told what happens, at once and without waiting. Fields are JSON's values."""

LISTING_S = 30.0
"""How long a toolset may take to say what tools it has."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ExecutorLimits:
    """Bounds of one executor. Sizes in bytes.

    calls: in one step; more are answered with an error. parallel: calls of one step that run at a time. threads: functions
    that run in threads at a time, of all steps. stuck: calls that go on though they were given up, before no more are
    started. grace_s: how long a cancelled tool may clean up.
    """

    calls: int = 128
    parallel: int = 32
    threads: int = DEFAULT_THREADS
    stuck: int = DEFAULT_STUCK
    argument_bytes: int = 256 << 10
    result_bytes: int = 64 << 10
    grace_s: float = DEFAULT_GRACE_S


class Machinery:
    """What all steps of an executor share."""

    def __init__(
        self,
        toolsets: Sequence[Toolset],
        invoker: Invoker,
        cache: ToolCache | None,
        limits: ExecutorLimits,
        retry: RetryPolicy,
        hooks: ToolHooks | None,
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.invoker, self.cache, self.limits, self.retry, self.hooks = invoker, cache, limits, retry, hooks
        self.draw, self.sleep = draw, sleep
        self._registries = [toolset for toolset in toolsets if isinstance(toolset, ToolRegistry)]
        self._others = [toolset for toolset in toolsets if not isinstance(toolset, ToolRegistry)]
        self._slots: dict[str, asyncio.Semaphore] = {}

    def find_now(self, name: str) -> Tool | None:
        """A tool that a registry has."""
        for registry in self._registries:
            if (tool := registry.find(name)) is not None:
                return tool
        return None

    async def find(self, name: str) -> tuple[Tool | None, list[str], list[str]]:
        """A tool that any toolset has; else the names there are, as a model writes them, and what toolsets did not answer."""
        own, silent = own_name(name), []
        known = [tool.spec.name for registry in self._registries for tool in registry]
        for toolset in self._others:
            try:
                async with asyncio.timeout(LISTING_S):
                    tools = await toolset.tools()
            except Exception as error:
                silent.append(f"a toolset does not answer: {error_text(error, 200)}")
                continue
            for tool in tools:
                if tool.name in (name, own):
                    return tool, [], []
                known.append(tool.spec.name)
        return None, known, silent

    def slots(self, tool: Tool) -> asyncio.Semaphore | None:
        """What bounds how many calls of this tool run at a time."""
        if tool.concurrency is None:
            return None
        if tool.name not in self._slots:
            self._slots[tool.name] = asyncio.Semaphore(tool.concurrency)
        return self._slots[tool.name]
