"""Tools by name.

    registry = ToolRegistry()

    @registry.register("calculator")
    def calculate(expression: str) -> str:
        ...

    registry.execute("calculator", expression="1 + 1")

`execute` and `aexecute` check the arguments, bound the time, and give back what the function returned, or raise what it
raised. An agent's calls go through an `Executor`, which adds what a model needs: results as text, retries, the cache.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from deepseek.agent.execution.errors import ApprovalNeeded, ToolFailed
from deepseek.agent.execution.invoke import DEFAULT_GRACE_S, Invoker
from deepseek.agent.execution.isolate import Answer
from deepseek.agent.execution.names import own_name
from deepseek.agent.execution.timeout import Raised
from deepseek.agent.execution.tool import Tool, ToolContext
from deepseek.core.errors import ToolError
from deepseek.core.messages import ToolSpec

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_RESULT_BYTES = 8 << 20
"""Of what a process of its own may return to `execute`; it comes as JSON's values."""

_NO_CONTEXT = ToolContext()


class ToolRegistry:
    """Tools by name; a `Toolset`. Registering may happen from any thread."""

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._lock = threading.Lock()
        self._invoker = Invoker()
        for tool in tools:
            self.add(tool)

    @overload
    def register(self, name: str, func: None = None, /, **options: Any) -> Callable[[Function], Function]: ...
    @overload
    def register(self, name: str, func: Function, /, **options: Any) -> Function: ...
    def register(self, name: str, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register a function under a name, directly or as a decorator; the function itself stays as it is.

        options: `description`, `parameters`, `closed` and the fields of `Tool`. Raises ToolError for a name that is
        taken and for a function that cannot be a tool.
        """
        if func is not None:
            self.add(Tool.of(func, name=name, **options))
            return func

        def decorate(function: Function) -> Function:
            self.add(Tool.of(function, name=name, **options))
            return function

        return decorate

    def add(self, tool: Tool) -> None:
        """Register a tool that is one already. Raises ToolError for a name that is taken."""
        with self._lock:
            if tool.name in self._tools:
                raise ToolError(
                    "a tool of this name is registered already",
                    where="ToolRegistry",
                    found=repr(tool.name),
                    fix="give it another name, or remove the other one first",
                )
            self._tools = {**self._tools, tool.name: tool}  # anew, so that whoever iterates sees one state

    def remove(self, name: str) -> None:
        """Take a tool out. Raises ValueError if there is none."""
        with self._lock:
            if name not in self._tools:
                raise ValueError("Tool not found")
            self._tools = {key: tool for key, tool in self._tools.items() if key != name}

    def find(self, name: str) -> Tool | None:
        """The tool of this name, or of this name as a model writes it (`names`)."""
        return self._tools.get(name) or self._tools.get(own_name(name))

    async def tools(self) -> Sequence[Tool]:
        return tuple(self._tools.values())

    def specs(self) -> list[ToolSpec]:
        """What a model is told of the tools."""
        return [tool.spec for tool in self._tools.values()]

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def execute(self, tool_name: str, /, **kwargs: Any) -> Any:
        """Call a tool and return what it returned. Blocks.

        Raises ValueError("Tool not found"), ArgumentsError for arguments that do not fit, ToolTimeout, ApprovalNeeded
        where a person would have to be asked, and whatever the tool raises. In a running event loop use `aexecute`;
        there this raises ToolError, unless the tool is inline.
        """
        tool = self._tool(tool_name)
        if tool.inline:
            return tool.call_form.call(tool.function, self._checked(tool, kwargs))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _run(self._execute(tool, kwargs))
        raise ToolError(
            "execute would block the event loop it is called from",
            where=f"tool {tool.name!r}",
            fix="await registry.aexecute(...)",
        )

    async def aexecute(self, tool_name: str, /, **kwargs: Any) -> Any:
        """The same without blocking: a synchronous function runs in a thread."""
        return await self._execute(self._tool(tool_name), kwargs)

    def _tool(self, name: str) -> Tool:
        tool = self.find(name)
        if tool is None:
            raise ValueError("Tool not found")
        return tool

    def _checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if tool.needs_approval is True or callable(tool.needs_approval):
            raise ApprovalNeeded(
                "a person has to be asked before this tool runs",
                where=f"tool {tool.name!r}",
                fix="run it through an Executor, which suspends the call",
            )
        values = tool.call_form.check(dict(arguments))
        if tool.inline and (parameter := tool.call_form.context_parameter) is not None:
            values[parameter] = _NO_CONTEXT
        return values

    async def _execute(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        values = self._checked(tool, arguments)
        outcome = await self._invoker.invoke(
            tool, values, _NO_CONTEXT, tool.timeout_s, lambda value: value, MAX_RESULT_BYTES
        )
        if isinstance(outcome, Raised):
            raise outcome.error
        if not isinstance(outcome, Answer):
            return outcome
        if outcome.truncated:
            raise ToolFailed("it returned too much", where=f"tool {tool.name!r}", expected=f"{MAX_RESULT_BYTES} bytes")
        return json.loads(outcome.text) if outcome.is_json else outcome.text


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, which would wait for ever for a task that swallows its cancellation."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        try:
            if left := asyncio.all_tasks(loop):
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(left, timeout=DEFAULT_GRACE_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
