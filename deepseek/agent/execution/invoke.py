"""One call of one function, wherever it has to run, within its time: what it returned, or what it raised.

    asynchronous        a task of its own, cancelled when its time is over             `timeout`
    synchronous         a thread, given up when its time is over                       `threads`
    isolate=True        a process, killed when its time is over                        `isolate`
    inline=True         here and now

Whatever a function raises is caught here, SystemExit and the like included, and comes back as `Raised`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolBusy, ToolFailed, ToolTimeout
from deepseek.agent.execution.isolate import IsolatedCall, address_of
from deepseek.agent.execution.threads import Job, Threads
from deepseek.agent.execution.timeout import Raised, within
from deepseek.agent.execution.tool import Tool
from deepseek.agent.execution.validate import Arguments, HintForm
from deepseek.core.errors import ToolError

log = logging.getLogger("deepseek.agent")

DEFAULT_GRACE_S = 1.0
DEFAULT_STUCK = 32
_KILL_S = 5.0  # an isolated call ends by itself at its time; this much later it is given up

Finish = Callable[[object], object]
"""What becomes of a value, where it comes from: in the function's thread, so that a large one holds up nobody."""


class Invoker:
    """Calls functions. grace_s: how long a cancelled one may clean up. most_stuck: how many may go on regardless."""

    def __init__(self, *, grace_s: float = DEFAULT_GRACE_S, most_stuck: int = DEFAULT_STUCK, threads: int = 32) -> None:
        self._grace_s, self._most_stuck = grace_s, most_stuck
        self._threads = Threads(threads, most_given_up=most_stuck)
        self._stuck: set[asyncio.Task[object]] = set()

    @property
    def stuck(self) -> int:
        """Calls that were given up and still run: tasks that swallow their cancellation, threads that hang."""
        return len(self._stuck) + self._threads.given_up

    async def invoke(
        self, tool: Tool, values: Arguments, context: ToolContext, timeout_s: float, finish: Finish, max_bytes: int
    ) -> object:
        """What `finish` made of the function's value, an `isolate.Answer`, or Raised."""
        if tool.isolate:
            return await self._in_process(tool, values, context, timeout_s, max_bytes)
        if (parameter := tool.call_form.context_parameter) is not None:
            values = {**values, parameter: context}
        if tool.is_async:
            if len(self._stuck) >= self._most_stuck:
                return Raised(ToolBusy("too many tools went on after they were cancelled", found=len(self._stuck)))
            return await self._within(_contained(tool, values, finish), timeout_s)
        if tool.inline:
            outcome = _called(tool, values, finish)
        else:
            until = time.monotonic() + timeout_s
            outcome = await self.in_thread(lambda: _called(tool, values, finish), timeout_s)
            timeout_s = max(0.0, until - time.monotonic())
        if inspect.isawaitable(outcome):  # a plain function that returned a coroutine
            outcome = await self._within(_awaited(outcome, finish), timeout_s)
        return outcome

    async def _within(self, work: Any, timeout_s: float) -> object:
        return await within(work, timeout_s, self._grace_s, self._keep_stuck)

    def _keep_stuck(self, task: asyncio.Task[object]) -> None:
        self._stuck.add(task)
        task.add_done_callback(self._stuck.discard)
        log.warning("a tool goes on after it was cancelled; it is given up (%d such now)", self.stuck)

    async def in_thread(
        self, work: Callable[[], object], timeout_s: float, cancel: Callable[[], None] | None = None
    ) -> object:
        """What the work returns or raises, the latter as Raised. cancel: makes it end soon, where that is possible."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[object] = loop.create_future()
        context = copy_context()

        def deliver(outcome: object) -> None:
            if not over.done():
                over.set_result(outcome)

        def run() -> None:
            try:
                outcome = context.run(work)
            except BaseException as error:
                outcome = Raised(error)
            try:
                loop.call_soon_threadsafe(deliver, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        try:
            job = self._threads.start(run)
        except ToolBusy as busy:
            return Raised(busy)
        timer = loop.call_later(timeout_s, deliver, _LATE)
        try:
            outcome = await over
        except asyncio.CancelledError:
            self._give_up(job, cancel)
            raise
        finally:
            timer.cancel()
        if outcome is not _LATE:
            return outcome
        if self._give_up(job, cancel):
            what = f"the tool took longer than {timeout_s:g} s; its thread cannot be stopped and was given up"
            return Raised(ToolTimeout(what, stopped=False))
        return Raised(ToolBusy("no thread was free in time", found=f"{timeout_s:g} s of waiting"))

    def _give_up(self, job: Job, cancel: Callable[[], None] | None) -> bool:
        runs_on = self._threads.give_up(job)
        if cancel is not None:
            cancel()
        elif runs_on:
            log.warning("a tool hangs in a thread; it is given up (%d such now)", self.stuck)
        return runs_on

    async def _in_process(
        self, tool: Tool, values: Arguments, context: ToolContext, timeout_s: float, max_bytes: int
    ) -> object:
        try:
            call = IsolatedCall(_request(tool, values, context, max_bytes), timeout_s, max_bytes)
        except ToolError as error:
            return Raised(error)

        return await self.in_thread(call.run, timeout_s + _KILL_S, call.cancel)


_LATE = object()


def _called(tool: Tool, values: Arguments, finish: Finish) -> object:
    try:
        value = tool.call_form.call(tool.function, values)
        return value if inspect.isawaitable(value) else finish(value)
    except BaseException as error:
        _let_interrupts_pass(error)
        return Raised(error)


async def _contained(tool: Tool, values: Arguments, finish: Finish) -> object:
    try:
        return finish(await tool.call_form.call(tool.function, values))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        _let_interrupts_pass(error)
        return Raised(error)


async def _awaited(value: Awaitable[object], finish: Finish) -> object:
    try:
        return finish(await value)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        _let_interrupts_pass(error)
        return Raised(error)


def _let_interrupts_pass(error: BaseException) -> None:
    """Ctrl-C comes as an exception wherever the main thread is, unless the program handles the signal: then a
    KeyboardInterrupt is the tool's own."""
    if (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        raise error


def _request(tool: Tool, values: Arguments, context: ToolContext, max_bytes: int) -> dict[str, Any]:
    """What the process is told, as JSON. Raises ToolFailed for arguments that JSON cannot carry."""
    form = tool.call_form
    typed = isinstance(form, HintForm) and not _is_json(values)
    if typed:
        assert isinstance(form, HintForm)
        back = {parameter: property_ for property_, parameter in form.parameters.items()}
        values = form.adapter.dump_python({back.get(k, k): v for k, v in values.items()}, mode="json")
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ToolFailed("the arguments cannot be handed to another process", found=str(error)[:200]) from None
    given = None
    if form.context_parameter is not None:
        given = {
            "parameter": form.context_parameter,
            "run_id": context.run_id,
            "call_id": context.call_id,
            "metadata": dict(context.metadata),
            "left_s": None if context.deadline is None else context.deadline - time.monotonic(),
        }
    return {
        "path": sys.path,
        "function": address_of(tool.function, f"tool {tool.name!r}"),
        "values": values,
        "typed": typed,
        "positional": list(form.positional) if isinstance(form, HintForm) else [],
        "tenant": context.tenant,
        "context": given,
        "memory_bytes": tool.memory_bytes,
        "max_result_bytes": max_bytes,
    }


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return type(value) is list and all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
