"""One step's calls on their way to results (see `executor`, whose public face it is).

What needs no waiting is done at once: arguments that do not fit, results that are kept. Only the rest becomes tasks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from deepseek.agent.execution.approval import Approval, ApprovalRequest, new_approval_id
from deepseek.agent.execution.cache import Kept
from deepseek.agent.execution.errors import (
    ApprovalNeeded,
    ArgumentsError,
    ToolBusy,
    ToolRefused,
    ToolRetry,
    ToolTimeout,
)
from deepseek.agent.execution.hooks import after, before
from deepseek.agent.execution.isolate import Answer
from deepseek.agent.execution.machinery import Machinery, Record
from deepseek.agent.execution.results import ErrorKind, Status, ToolResult, bounded_text, error_text, render
from deepseek.agent.execution.retry import asked_pause_s, left_s, may_pass
from deepseek.agent.execution.timeout import Raised
from deepseek.agent.execution.tool import Tool, ToolContext
from deepseek.agent.execution.validate import Arguments, canonical, parse_arguments
from deepseek.core.errors import INTERRUPTS, TenancyError, ToolError
from deepseek.core.messages import ToolCallPart
from deepseek.tenancy.context import TenantContext, current_tenant

log = logging.getLogger("deepseek.agent")


@dataclass(slots=True)
class _Ready:
    """A call whose arguments were checked. text: the arguments as canonical JSON."""

    tool: Tool
    arguments: Arguments
    values: Arguments
    text: str


class Step:
    """One run of an executor."""

    def __init__(
        self,
        machinery: Machinery,
        calls: Sequence[ToolCallPart],
        depends: Mapping[str, Sequence[str]],
        approvals: Mapping[str, Approval],
        finished: Mapping[str, ToolResult],
        context: ToolContext,
        record: Record | None,
    ) -> None:
        self._shared, self._calls, self._depends = machinery, calls, depends
        self._approvals, self._finished, self._context, self._told = approvals, finished, context, record
        self._results: list[ToolResult | None] = [None] * len(calls)
        self._done: dict[str, tuple[asyncio.Event, int]] = {}
        self._parallel: asyncio.Semaphore | None = None

    async def run(self) -> list[ToolResult]:
        if self._depends:
            _check_order(self._calls, self._depends, self._finished)
        waiting: list[tuple[int, ToolCallPart, _Ready | None]] = []
        seen: set[str] = set()
        for index, call in enumerate(self._calls):
            now = self._at_once(index, call, seen)
            if isinstance(now, ToolResult):
                self._results[index] = now
            else:
                waiting.append((index, call, now))
        if self._depends:
            for index, call in enumerate(self._calls):
                self._done.setdefault(call.id, (asyncio.Event(), index))
            for event, index in self._done.values():
                if self._results[index] is not None:
                    event.set()
        if waiting:
            tenant = self._context.tenant
            with nullcontext() if tenant is None or tenant == tenant_at_hand() else TenantContext(tenant):
                await self._run(waiting)
        return [result for result in self._results if result is not None]

    async def _run(self, waiting: Sequence[tuple[int, ToolCallPart, _Ready | None]]) -> None:
        if len(waiting) == 1:
            await self._call(*waiting[0])
            return
        if len(waiting) > self._shared.limits.parallel:
            self._parallel = asyncio.Semaphore(self._shared.limits.parallel)
        async with asyncio.TaskGroup() as group:
            for item in waiting:
                group.create_task(self._call(*item))

    def _at_once(self, index: int, call: ToolCallPart, seen: set[str]) -> ToolResult | _Ready | None:
        """A result that needs no waiting; or the call as far as it came without."""
        if call.id in seen:
            return self._end(call, "error", "another call of this step has the same id", "arguments")
        seen.add(call.id)
        earlier = self._finished.get(call.id)
        if earlier is not None and earlier.final:
            return earlier
        if index >= self._shared.limits.calls:
            return self._end(call, "error", f"not run: more than {self._shared.limits.calls} calls at a time", "busy")
        tool = self._shared.find_now(call.name)
        hooks = self._shared.hooks
        if tool is None or hooks is not None or earlier is not None or call.id in self._depends:
            return None
        try:
            ready = self._prepare(tool, call.arguments)
        except ToolError as error:
            return self._failed(call, error)
        except Exception:
            return None  # met again, and told of, where nothing reaches the siblings
        if (
            tool.pure
            and self._shared.cache is not None
            and tool.needs_approval is False
            and (kept := self._shared.cache.get(self._key(ready))) is not None
        ):
            self._tell("tool_started", call, arguments=ready.text)
            return self._end(call, "ok", kept.text, truncated=kept.truncated, cached=True)
        return ready

    def _prepare(self, tool: Tool, text: str) -> _Ready:
        """Raises ArgumentsError, and ToolError where the tool's own schema is at fault."""
        arguments = parse_arguments(text, self._shared.limits.argument_bytes)
        written = canonical(arguments)
        return _Ready(tool, arguments, tool.call_form.check(arguments), written)

    async def _call(self, index: int, call: ToolCallPart, ready: _Ready | None) -> None:
        try:
            result = await self._waited_for(call, ready)
        except (asyncio.CancelledError, *INTERRUPTS):
            raise
        except BaseException as error:
            log.exception("a call could not be carried out")  # a defect of ours; the siblings go on
            result = self._end(call, "error", f"internal error: {type(error).__name__}", "internal")
        self._results[index] = result
        if call.id in self._done:
            self._done[call.id][0].set()

    async def _waited_for(self, call: ToolCallPart, ready: _Ready | None) -> ToolResult:
        for other in self._depends.get(call.id, ()):
            first = await self._before(other)
            if not first.final:
                earlier = self._finished.get(call.id)
                return earlier or self._end(call, "suspended", f"waits for {other}, which waits for a person")
            if first.status != "ok":
                return self._end(call, "error", f"not run: {other}, which it depends on, failed", "dependency")
        if self._parallel is None:
            return await self._found(call, ready)
        async with self._parallel:
            return await self._found(call, ready)

    async def _before(self, call_id: str) -> ToolResult:
        if call_id not in self._done:
            return self._finished[call_id]
        event, index = self._done[call_id]
        await event.wait()
        result = self._results[index]
        assert result is not None
        return result

    async def _found(self, call: ToolCallPart, ready: _Ready | None) -> ToolResult:
        tool = ready.tool if ready is not None else self._shared.find_now(call.name)
        if tool is None:
            tool, known, silent = await self._shared.find(call.name)
            if tool is None:
                text = f"there is no tool {call.name[:100]!r}; there are: {', '.join(sorted(known)[:50])}"
                return self._end(call, "error", text + "".join(f"; {why}" for why in silent), "unknown_tool")
        context = replace(self._context, call_id=call.id)
        try:
            allowed = await self._allowed(call, tool, ready, context)
        except ToolError as error:
            return self._failed(call, error)
        if isinstance(allowed, ToolResult):
            return allowed
        ready, context = allowed
        self._tell("tool_started", call, arguments=ready.text)
        return await self._through_cache(call, ready, context)

    async def _allowed(
        self, call: ToolCallPart, tool: Tool, ready: _Ready | None, context: ToolContext
    ) -> ToolResult | tuple[_Ready, ToolContext]:
        """What runs, after hooks and the person had their say; or the result, where one of them keeps it from running.

        Raises ToolError where they do so by an error, and where what they made of the arguments does not fit.
        """
        written = call.arguments
        earlier = self._finished.get(call.id)
        asked = None if earlier is None else earlier.approval
        if earlier is not None and asked is not None and (asked.tool, asked.written) == (call.name, written):
            answer = self._approvals.get(asked.id)
            if answer is None:
                return earlier
            if not answer.approved:
                reason = f": {answer.reason}" if answer.reason else ""
                return self._end(call, "refused", f"not run: a person said no{reason}", "refused")
            written = asked.arguments if answer.arguments is None else answer.arguments
            context = replace(context, approval=answer)
        if self._shared.hooks is not None:
            given = parse_arguments(written, self._shared.limits.argument_bytes)
            written = canonical(await before(self._shared.hooks, tool, given, context))
            if context.approval is not None and written != canonical(given):
                context = replace(context, approval=None)  # not what the person was shown
        if ready is None:
            ready = self._prepare(tool, written)
        if context.approval is None and await self._needs_person(ready, context):
            return self._suspended(call, ready, "the tool needs a person's consent")
        return ready, context

    async def _needs_person(self, ready: _Ready, context: ToolContext) -> bool:
        needs = ready.tool.needs_approval
        if isinstance(needs, bool):
            return needs
        try:
            said = needs(ready.arguments, context)
            if inspect.isawaitable(said):
                said = await asyncio.wait_for(said, ready.tool.timeout_s)
            return bool(said)
        except Exception:
            log.exception("whether %r needs approval could not be found out; a person is asked", ready.tool.name)
            return True

    async def _through_cache(self, call: ToolCallPart, ready: _Ready, context: ToolContext) -> ToolResult:
        tool, cache = ready.tool, self._shared.cache
        if not tool.pure or cache is None:
            result = await self._attempts(call, ready, context)
        else:
            made: list[ToolResult] = []

            async def make() -> Kept | None:
                made.append(await self._attempts(call, ready, context))
                return Kept(made[0].text, made[0].truncated) if made[0].status == "ok" else None

            wait_s = min(tool.timeout_s, left_s(context.deadline))
            begun = time.perf_counter()
            try:
                kept, by_another = await cache.through(self._key(ready), make, wait_s, tool.cache_ttl_s)
            except TimeoutError:
                return self._end(call, "error", "another call with the same arguments did not come back", "timeout")
            if by_another:
                assert kept is not None
                result = self._result(
                    call, "ok", kept.text, truncated=kept.truncated, cached=True, duration_ms=_ms_since(begun)
                )
            else:
                result = made[0]
        if self._shared.hooks is not None and result.status == "ok":
            result = await after(self._shared.hooks, tool, ready.arguments, result, context, self._most_bytes(tool))
        return self._told_of(result)

    async def _attempts(self, call: ToolCallPart, ready: _Ready, context: ToolContext) -> ToolResult:
        tool, policy = ready.tool, self._shared.retry
        most = self._most_bytes(tool)
        begun = time.perf_counter()
        until = min(left_s(context.deadline), policy.total_s)
        attempts = 0
        while True:
            timeout_s = min(tool.timeout_s, left_s(context.deadline))
            if timeout_s <= 0:
                return self._result(
                    call, "error", "not run: the run's time is over", "deadline", attempts, duration_ms=_ms_since(begun)
                )
            # An attempt before may have changed what it was given.
            values = ready.values if attempts == 0 else self._prepare(tool, ready.text).values
            attempts += 1
            outcome = await self._once(tool, values, context, timeout_s, most)
            if isinstance(outcome, Answer):
                return self._result(
                    call, "ok", outcome.text, None, attempts, outcome.truncated, duration_ms=_ms_since(begun)
                )
            assert isinstance(outcome, Raised)
            error = outcome.error
            ran = attempts - isinstance(error, ToolBusy)
            failed = self._failure(call, ready, error, ran, _ms_since(begun))
            if isinstance(error, ToolTimeout) and not error.stopped:
                self._tell("tool_given_up", call, running=self._shared.invoker.stuck)
            if failed.kind == "timeout" and timeout_s < tool.timeout_s:
                return replace(failed, kind="deadline")
            if attempts > tool.retries or not may_pass(error, tool.pure or tool.idempotent):
                return failed
            pause_s = policy.pause_s(attempts - 1, asked_pause_s(error), self._shared.draw)
            if pause_s >= until - _ms_since(begun) / 1000:
                return failed
            self._tell("tool_retried", call, attempt=attempts, pause_s=pause_s, text=failed.text)
            await self._shared.sleep(pause_s)

    async def _once(self, tool: Tool, values: Arguments, context: ToolContext, timeout_s: float, most: int) -> object:
        def finish(value: object) -> Answer:
            return Answer(*render(value, most))

        slots = self._shared.slots(tool)
        if slots is None:
            return await self._shared.invoker.invoke(tool, values, context, timeout_s, finish, most)
        try:
            async with asyncio.timeout(timeout_s):
                await slots.acquire()
        except TimeoutError:
            return Raised(ToolBusy(f"the tool runs {tool.concurrency} times already", where=f"tool {tool.name!r}"))
        try:
            return await self._shared.invoker.invoke(tool, values, context, timeout_s, finish, most)
        finally:
            slots.release()

    def _failure(
        self, call: ToolCallPart, ready: _Ready, error: BaseException, attempts: int, duration_ms: float
    ) -> ToolResult:
        if isinstance(error, ApprovalNeeded):
            request = self._request(call, ready, error.what)
            return self._result(call, "suspended", _WAITING, None, attempts, duration_ms=duration_ms, approval=request)
        status, kind = _kind_of(error)
        text, _ = bounded_text(error_text(error), self._most_bytes(ready.tool))
        return self._result(call, status, text, kind, attempts, duration_ms=duration_ms)

    def _failed(self, call: ToolCallPart, error: ToolError) -> ToolResult:
        """The result of a call that was not run."""
        status, kind = _kind_of(error)
        return self._end(call, status, error_text(error), kind)

    def _suspended(self, call: ToolCallPart, ready: _Ready, reason: str) -> ToolResult:
        return self._told_of(self._result(call, "suspended", _WAITING, approval=self._request(call, ready, reason)))

    def _request(self, call: ToolCallPart, ready: _Ready, reason: str) -> ApprovalRequest:
        return ApprovalRequest(new_approval_id(), call.id, call.name, ready.text, reason[:1000], call.arguments)

    def _end(
        self,
        call: ToolCallPart,
        status: Status,
        text: str,
        kind: ErrorKind | None = None,
        *,
        truncated: bool = False,
        cached: bool = False,
    ) -> ToolResult:
        return self._told_of(self._result(call, status, text, kind, truncated=truncated, cached=cached))

    @staticmethod
    def _result(
        call: ToolCallPart,
        status: Status,
        text: str,
        kind: ErrorKind | None = None,
        attempts: int = 0,
        truncated: bool = False,
        *,
        cached: bool = False,
        duration_ms: float = 0.0,
        approval: ApprovalRequest | None = None,
    ) -> ToolResult:
        return ToolResult(call.id, call.name, status, text, kind, attempts, cached, truncated, duration_ms, approval)

    def _told_of(self, result: ToolResult) -> ToolResult:
        self._tell(
            "tool_finished",
            result,
            status=result.status,
            error=result.kind,
            text=result.text,
            attempts=result.attempts,
            cached=result.cached,
            truncated=result.truncated,
            duration_ms=result.duration_ms,
            approval_id=None if result.approval is None else result.approval.id,
        )
        return result

    def _tell(self, event: str, about: ToolCallPart | ToolResult, **fields: Any) -> None:
        if self._told is None:
            return
        call_id = about.call_id if isinstance(about, ToolResult) else about.id
        try:
            self._told(event, run_id=self._context.run_id, call_id=call_id, name=about.name, **fields)
        except Exception:
            log.exception("%s of call %s could not be recorded", event, call_id)

    def _most_bytes(self, tool: Tool) -> int:
        return tool.max_result_bytes or self._shared.limits.result_bytes

    def _key(self, ready: _Ready) -> tuple[str | None, str, str, str]:
        return self._context.tenant, ready.tool.name, ready.tool.version, ready.text


def tenant_at_hand() -> str | None:
    """Whom work is done for now, if anybody is set."""
    try:
        return current_tenant()
    except TenancyError:
        return None


_WAITING = "waits for a person's consent"


def _kind_of(error: BaseException) -> tuple[Status, ErrorKind]:
    if isinstance(error, ToolRefused):
        return "refused", "refused"
    if isinstance(error, ArgumentsError):
        return "error", "arguments"
    if isinstance(error, ToolRetry):
        return "error", "retry"
    if isinstance(error, ToolTimeout):
        return "error", "timeout"
    if isinstance(error, ToolBusy):
        return "error", "busy"
    return "error", "failed"


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


def _check_order(
    calls: Sequence[ToolCallPart], depends: Mapping[str, Sequence[str]], finished: Mapping[str, ToolResult]
) -> None:
    """Raises ToolError where a call would wait for ever: for one that is not there, or for itself by way of others."""
    known = {call.id for call in calls} | finished.keys()
    for call_id, others in depends.items():
        for other in others:
            if other not in known:
                raise ToolError("a call depends on one that there is not", where=f"call {call_id}", found=repr(other))
    try:
        TopologicalSorter(depends).prepare()
    except CycleError as error:
        raise ToolError("calls depend on each other in a circle", where="depends", found=error.args[1]) from None
