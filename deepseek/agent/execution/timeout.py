"""A time-out that stops the work, not only the waiting for it.

A coroutine runs as a task of its own. When its time is over the task is cancelled and gets a grace to clean up; one that
swallows the cancellation and goes on is given up and reported, and its caller goes on without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from deepseek.agent.execution.errors import ToolFailed, ToolTimeout


@dataclass(frozen=True, slots=True)
class Raised:
    """In place of a value: what was raised. Nothing a tool raises may travel as an exception through the event loop,
    which some exceptions (SystemExit) would end."""

    error: BaseException


GiveUp = Callable[["asyncio.Task[object]"], None]


async def within(work: Coroutine[Any, Any, object], timeout_s: float, grace_s: float, give_up: GiveUp) -> object:
    """What the work returns, or Raised. `work` itself must not raise anything but CancelledError.

    A time-out is Raised(ToolTimeout). Cancelling this cancels the work, and waits for it no longer than the grace.
    give_up: gets a task that goes on regardless.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    over: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(wake)
    timer = loop.call_later(timeout_s, wake)
    try:
        await over
    except asyncio.CancelledError:
        await _stop(task, grace_s, give_up)
        raise
    finally:
        timer.cancel()
    if not task.done():
        stopped = await _stop(task, grace_s, give_up)
        regardless = "" if stopped else ", and did not stop when it was told to"
        return Raised(ToolTimeout(f"the tool took longer than {timeout_s:g} s{regardless}", stopped=stopped))
    return _outcome(task)


async def _stop(task: asyncio.Task[object], grace_s: float, give_up: GiveUp) -> bool:
    """Cancel the task, wait for it that long, and say whether it has ended. It is not waited for again."""
    task.cancel()
    try:
        await asyncio.wait((task,), timeout=grace_s)
    finally:  # also when cancelled once more, which means: do not wait longer
        if task.done():
            _outcome(task)
        else:
            task.add_done_callback(_outcome)
            give_up(task)
    return task.done()


def _outcome(task: asyncio.Task[object]) -> object:
    """The task's result; asking for it also keeps asyncio from logging what nobody will ever ask for."""
    if task.cancelled():
        return Raised(ToolFailed("the tool cancelled itself"))
    error = task.exception()
    return Raised(error) if error is not None else task.result()
