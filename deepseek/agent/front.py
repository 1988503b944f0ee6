"""The synchronous front of asynchronous work: one event loop in a thread of its own, shared by all who wait.

It is for scripts and threads. On an event loop it would hold up everybody, so there it is an error.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from deepseek.agent.errors import AgentError

T = TypeVar("T")

_LOCK = threading.Lock()
_LOOPS: list[asyncio.AbstractEventLoop] = []


def wait_for(work: Callable[[], Coroutine[Any, Any, T]], instead: str) -> T:
    """What the coroutine returns or raises, in the caller's context. Ctrl-C cancels it and waits for its end.

    instead: what to call on an event loop. Raises AgentError there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise AgentError("this would hold up the event loop", fix=f"await {instead} instead")
    loop, done = _loop(), Future[T]()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(work())
        tasks.append(task)
        task.add_done_callback(lambda ended: _hand_over(ended, done))

    loop.call_soon_threadsafe(start, context=copy_context())
    try:
        return done.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
        with suppress(BaseException):  # how it ended does not matter any more, only that it did
            done.result()
        raise


def _hand_over(task: asyncio.Task[T], done: Future[T]) -> None:
    if task.cancelled():
        done.cancel()
        done.set_running_or_notify_cancel()
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _loop() -> asyncio.AbstractEventLoop:
    with _LOCK:
        if not _LOOPS or not _LOOPS[0].is_running():
            loop = asyncio.new_event_loop()
            started = threading.Event()

            def run() -> None:
                asyncio.set_event_loop(loop)
                loop.call_soon(started.set)
                loop.run_forever()

            threading.Thread(target=run, name="deepseek-agents", daemon=True).start()
            started.wait()
            _LOOPS[:] = [loop]
        return _LOOPS[0]
