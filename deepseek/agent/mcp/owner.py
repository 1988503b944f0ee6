"""One task owns a connection: it opens it, keeps it, and closes it, and everybody else speaks to it by a queue.

The SDK's connections hold cancel scopes, which must be left in the task that entered them (python-sdk issues 79, 521, 577).
So no caller ever enters one: what a caller wants done is put into the queue as a function of the client, and runs as a child of
the owner; a caller that is cancelled cancels that child alone.

A connection is opened when first needed. One that breaks fails what was under way, with the reason; the next thing asked for
opens it anew, not sooner than a growing pause after a failure, and within that pause the failure is told at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST

from deepseek.agent.execution.errors import ToolBusy, ToolTransient
from deepseek.agent.execution.results import error_text
from deepseek.agent.mcp.ended import Ended
from deepseek.core.errors import ToolError

log = logging.getLogger("deepseek.agent.mcp")

T = TypeVar("T")
State = Literal["idle", "connecting", "up", "down", "closed"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_CLOSE_S = 10.0
_QUEUE = 256


class McpGone(ToolError):
    """The connection broke while something was under way, which may have been done or not."""


@dataclass(frozen=True, slots=True)
class Status:
    """state: idle: not needed so far; down: it broke or could not be had, `reason` says why."""

    state: State
    reason: str = ""
    connects: int = 0


@dataclass(slots=True)
class _Request:
    work: Callable[[Client], Awaitable[Any]]
    done: asyncio.Future[Any]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Owner:
    """open: how a client is made for a connection whose end `Ended` is told; entered and left by the owner.

    name: of the server, in messages. connected: is told of each new connection. watch: runs beside each, with its client,
    for what the server tells unasked.
    """

    def __init__(
        self,
        open: Callable[[Ended], Client],
        *,
        name: str,
        connect_s: float,
        connected: Callable[[Client], None] = lambda _: None,
        watch: Callable[[Client], Awaitable[None]] | None = None,
    ) -> None:
        self._open, self._name, self._connect_s = open, name, connect_s
        self._connected, self._watch = connected, watch
        self._task: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[_Request | None] = asyncio.Queue(_QUEUE)
        self._failures, self._not_before = 0, 0.0
        self._closed = False
        self.status = Status("idle")

    async def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """What `work` returns or raises, given the client of an open connection.

        Raises ToolTransient where there is none to be had, McpGone where it broke meanwhile, ToolBusy where too much is
        asked at once.
        """
        self._start()
        request = _Request(work, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise ToolBusy("too much is asked of the MCP server at once", where=self._name) from None
        try:
            result: T = await request.done
        except asyncio.CancelledError:
            request.scope.cancel()
            raise
        return result

    async def close(self) -> None:
        """End the connection, and whatever is under way. Idempotent."""
        self._closed = True
        task = self._task
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            self.status = Status("closed", connects=self.status.connects)
            return
        try:
            self._queue.put_nowait(None)
        except asyncio.QueueFull:
            task.cancel()
        done, _ = await asyncio.wait([task], timeout=_CLOSE_S)
        if not done:
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSE_S)

    def _start(self) -> None:
        if self._closed:
            raise ToolError("the connection is closed", where=self._name)
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            # Of another event loop, which is over, nobody waits for anything any more.
            self._queue = asyncio.Queue(_QUEUE)
            self._task = asyncio.create_task(self._own(), name=f"mcp:{self._name}")

    async def _own(self) -> None:
        queue = self._queue
        try:
            while (request := await queue.get()) is not None:
                if request.done.done():
                    continue
                if time.monotonic() < self._not_before:
                    self._refuse(request, self.status.reason)
                    continue
                if await self._connection(request, queue):
                    break
        finally:
            self.status = Status("closed" if self._closed else "down", self.status.reason, self.status.connects)
            while not queue.empty():
                if (left := queue.get_nowait()) is not None:
                    _fail(left, ToolError("the connection was closed", where=self._name))

    async def _connection(self, first: _Request, queue: asyncio.Queue[_Request | None]) -> bool:
        """One connection, from its opening for the first request to its end. Whether it was closed on purpose."""
        ended = Ended()
        orphans: list[_Request] = []
        opened = False
        on_purpose = False
        self.status = Status("connecting", connects=self.status.connects)
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._connect_s):
                    client = await stack.enter_async_context(self._open(ended))
                opened = True
                self._failures, self.status = 0, Status("up", connects=self.status.connects + 1)
                self._connected(client)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watched, client)
                    tasks.start_soon(_cancelled_when, ended, tasks.cancel_scope)
                    request: _Request | None = first
                    while request is not None:
                        tasks.start_soon(self._serve, client, request, orphans, ended)
                        request = await queue.get()
                    on_purpose = True
                    tasks.cancel_scope.cancel()
        except Exception as error:
            if ended.is_set():
                log.debug("MCP server %s: %s", self._name, error_text(error, 300))
            else:
                ended.set(_said(error, self._connect_s))
        finally:
            # Also when the owner itself is cancelled: nobody may be left waiting.
            reason = "the connection was closed" if on_purpose else ended.reason or "the connection was closed"
            if not opened:
                self._refuse(first, reason)
            for orphan in orphans:
                _fail(orphan, McpGone(f"the MCP server went away: {reason}", where=self._name))
        if not on_purpose:
            self._down(reason)
        return on_purpose

    def _down(self, reason: str) -> None:
        self._failures += 1
        # The first failure of a connection that stood is followed by a new attempt at once.
        pause_s = (
            0.0 if self.status.state == "up" else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._failures - 1))
        )
        self._not_before = time.monotonic() + pause_s
        self.status = Status("down", reason, self.status.connects)
        log.warning("MCP server %s is down: %s", self._name, reason)

    def _refuse(self, request: _Request, reason: str) -> None:
        pause_s = max(0.0, self._not_before - time.monotonic())
        _fail(
            request,
            ToolTransient(f"the MCP server is not there: {reason}", where=self._name, retry_after_s=pause_s or None),
        )

    async def _watched(self, client: Client) -> None:
        if self._watch is None:
            return
        try:
            await self._watch(client)
        except Exception as error:  # it only tells of changes; without it there are calls all the same
            log.debug("MCP server %s tells nothing unasked: %s", self._name, error_text(error, 200))

    async def _serve(self, client: Client, request: _Request, orphans: list[_Request], ended: Ended) -> None:
        with request.scope:
            if request.done.done():
                return
            orphans.append(request)  # until its end is known
            try:
                value = await request.work(client)
            except MCPError as error:
                if _is_over(error):
                    ended.set(error.message)
                    return
                orphans.remove(request)
                _fail(request, error)
            except Exception as error:
                orphans.remove(request)
                _fail(request, error)
            else:
                orphans.remove(request)
                if not request.done.done():
                    request.done.set_result(value)
        if request.scope.cancelled_caught and request in orphans:
            orphans.remove(request)


async def _cancelled_when(ended: Ended, scope: anyio.CancelScope) -> None:
    await ended.wait()
    scope.cancel()


def _is_over(error: MCPError) -> bool:
    """Whether it is the connection that failed; the codes are also used by servers for errors of their own."""
    return (error.code == CONNECTION_CLOSED and error.message == "Connection closed") or (
        error.code == INVALID_REQUEST and error.message == "Session terminated"
    )


def _fail(request: _Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _said(error: BaseException, connect_s: float) -> str:
    """The first of what went wrong, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"it does not answer within {connect_s:g} s"
    return " ".join(error_text(error, 300).split())
