"""Where one plugin's calls run, apart from all others: so that one that hangs takes nothing from them.

A plain function runs in a thread of the lane's own, of which there are few; `async def` on the event loop. A call past its
time is abandoned: its caller goes on at once. A coroutine is cancelled; a thread cannot be stopped, so it is let go on and
counts as taken until it comes back. Where all are taken by what was abandoned, calls are refused without a wait. Threads
are daemons: none keeps the process from ending. An idle one ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

MAX_THREADS = 8
MAX_WAITING = 256
"""Calls that wait for a thread."""
MAX_ABANDONED = 8
"""Coroutines that were cancelled and go on nevertheless."""
IDLE_S = 10.0


class LaneTaken(Exception):
    """There is no room for another call."""


class _Job:
    """A call of a plain function. abandoned: nobody waits for it."""

    __slots__ = ("abandoned", "context", "function", "loop", "result", "running")

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.context = contextvars.copy_context()
        self.result: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.abandoned = False
        self.running = False

    def run(self) -> None:
        value, failure = None, None
        try:
            value = self.context.run(self.function)
        except BaseException as error:  # SystemExit too: it is the plugin's, not the program's
            failure = error
        try:
            self.loop.call_soon_threadsafe(self._deliver, value, failure)
        except RuntimeError:  # the loop is closed
            return

    def _deliver(self, value: Any, failure: BaseException | None) -> None:
        if not self.result.done():
            self.result.set_result((value, failure))
        elif inspect.iscoroutine(value):
            value.close()


class Lane:
    """One plugin's."""

    def __init__(self, name: str, *, threads: int = MAX_THREADS, waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._most_threads, self._most_waiting = threads, waiting
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._stuck = 0  # threads that run what was abandoned
        self._left: set[asyncio.Task[Any]] = set()

    @property
    def stuck(self) -> int:
        """Calls that were abandoned and have not come back."""
        return self._stuck + len(self._left)

    async def call(self, function: Callable[[], Any], *, is_async: bool, seconds: float) -> Any:
        """What the function gives, awaited if it can be. Raises what it raises, TimeoutError, or LaneTaken."""
        if is_async:
            return await self._awaited(function, seconds)
        loop = asyncio.get_running_loop()
        began = loop.time()
        value = await self._threaded(_Job(function, loop), seconds)
        if inspect.isawaitable(value):
            return await self._awaited(lambda: value, seconds - (loop.time() - began))
        return value

    async def _threaded(self, job: _Job, seconds: float) -> Any:
        self._submit(job)
        try:
            async with asyncio.timeout(seconds):
                value, failure = await job.result
        except BaseException:
            self._abandon(job)
            raise
        if failure is not None:
            raise Raised(failure) from failure
        return value

    async def _awaited(self, function: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        if len(self._left) >= MAX_ABANDONED:
            raise LaneTaken
        task = asyncio.create_task(_contained(function))
        try:
            done, _ = await asyncio.wait((task,), timeout=max(0.0, seconds))
        except BaseException:
            self._leave(task)
            raise
        if not done:
            self._leave(task)
            raise TimeoutError
        if task.cancelled():  # by itself
            raise Raised(asyncio.CancelledError())
        value, failure = task.result()
        if failure is not None:
            raise Raised(failure) from failure
        return value

    def _leave(self, task: asyncio.Task[Any]) -> None:
        """Cancel it, and keep an eye on it: it may refuse to end."""
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        task.cancel()

    def _submit(self, job: _Job) -> None:
        with self._changed:
            if self._stuck >= self._most_threads or len(self._jobs) >= self._most_waiting:
                raise LaneTaken
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._threads < self._most_threads:
                self._threads += 1
                try:
                    threading.Thread(target=self._work, name=f"plugin-{self._name}", daemon=True).start()
                except RuntimeError:  # the system gives no more threads
                    self._threads -= 1
                    if not self._threads:
                        self._jobs.pop()
                        raise LaneTaken from None

    def _abandon(self, job: _Job) -> None:
        with self._changed:
            if job.abandoned:
                return
            job.abandoned = True
            if job.running:
                self._stuck += 1
            elif job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                has_work = self._changed.wait_for(lambda: bool(self._jobs), IDLE_S)
                self._idle -= 1
                if not has_work:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
                job.running = True
            job.run()
            with self._changed:
                job.running = False
                if job.abandoned:
                    self._stuck -= 1
            del job  # and with it what the call held


class Raised(Exception):
    """What a plugin raised, which may be anything, SystemExit and CancelledError too."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def _contained(function: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Its value or what it raised. Nothing but a cancellation of ours gets out: SystemExit would end the event loop."""
    try:
        return await function(), None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, error
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        return None, error
