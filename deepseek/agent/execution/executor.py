"""The calls of one step of an agent: all that may run at once do, each within its bounds, results in call order.

    find the tool -> parse and check the arguments -> before_tool -> a person's consent -> cache -> attempts -> after_tool

No call's failure reaches its siblings: whatever happens to a call becomes its `ToolResult`. Calls that depend on others
wait for them. A call that waits for a person is suspended and its siblings finish; run again with what is `finished` and
with the `approvals`, nothing that finished runs twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.cache import ToolCache
from deepseek.agent.execution.hooks import ToolHooks
from deepseek.agent.execution.invoke import Invoker
from deepseek.agent.execution.machinery import NOTHING, ExecutorLimits, Machinery, Record
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.execution.retry import RetryPolicy
from deepseek.agent.execution.step import Step, tenant_at_hand
from deepseek.agent.execution.tool import Tool, ToolContext, Toolset
from deepseek.core.errors import ToolError
from deepseek.core.messages import ToolCallPart, ToolSpec

__all__ = ["Executor", "ExecutorLimits", "Record", "ToolHooks"]

_LIMITS, _RETRY, _CONTEXT = ExecutorLimits(), RetryPolicy(), ToolContext()


class Executor:
    """Runs calls of the tools of a registry or of several toolsets. One event loop; any number of runs at once.

    cache: None: nothing is cached. record: see `Record`; `run` may be given another. draw: uniform over [0, 1), for
    the jitter. sleep: what pauses between attempts.
    """

    def __init__(
        self,
        toolsets: Toolset | Sequence[Toolset],
        *,
        cache: ToolCache | None = None,
        limits: ExecutorLimits = _LIMITS,
        retry: RetryPolicy = _RETRY,
        hooks: ToolHooks | None = None,
        record: Record | None = None,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._toolsets: tuple[Toolset, ...] = tuple(toolsets) if isinstance(toolsets, Sequence) else (toolsets,)
        self._record = record
        self._machinery = Machinery(
            self._toolsets,
            Invoker(grace_s=limits.grace_s, most_stuck=limits.stuck, threads=limits.threads),
            cache,
            limits,
            retry,
            hooks,
            draw,
            sleep,
        )

    @property
    def stuck(self) -> int:
        """Calls that were given up and still run."""
        return self._machinery.invoker.stuck

    async def tools(self) -> list[Tool]:
        """All tools there are now. Raises ToolError where two toolsets have one of the same name."""
        found: dict[str, Tool] = {}
        for toolset in self._toolsets:
            for tool in await toolset.tools():
                if found.setdefault(tool.spec.name, tool) is not tool:
                    raise ToolError(
                        "two tools of one name", where="toolsets", found=repr(tool.name), fix="rename or leave out one"
                    )
        return list(found.values())

    async def specs(self) -> list[ToolSpec]:
        """What a model is told of them."""
        return [tool.spec for tool in await self.tools()]

    async def run(
        self,
        calls: Sequence[ToolCallPart],
        *,
        depends: Mapping[str, Sequence[str]] = NOTHING,
        approvals: Mapping[str, Approval] = NOTHING,
        finished: Mapping[str, ToolResult] = NOTHING,
        context: ToolContext = _CONTEXT,
        record: Record | None = None,
    ) -> list[ToolResult]:
        """One result for each call, in their order.

        depends: call id -> ids of calls of this step, or finished ones, that must succeed before. approvals: answers, by
        the id of the request. finished: results of an earlier run of the same step by call id, suspended ones included;
        a final one is returned as it is. context: its tenant is at hand (`current_tenant`) while tools run; None: the one
        that is. record: instead of the executor's.
        Raises ToolError for dependencies that cannot be met. Cancelling it cancels the calls, and leaves none running but
        what swallows that, or hangs in a thread.
        """
        if context.tenant is None and (tenant := tenant_at_hand()) is not None:
            context = replace(context, tenant=tenant)
        step = Step(self._machinery, calls, depends, approvals, finished, context, record or self._record)
        return await step.run()
