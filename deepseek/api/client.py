"""Notice at once that a client went away, and do not wait for ever for one that does not read.

Watching `http.disconnect` beside the work, and not between its steps, stops a request that has not
produced its first token yet, which is where servers usually keep working for nobody.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Message, Receive, Send


class SlowReader(Exception):
    """The client's connection took no data for too long."""


class ClientWatch:
    """Cancels the enclosed work when the client disconnects.

    The same mechanism as `asyncio.timeout`: a watcher cancels the task, and leaving the block turns
    exactly that cancellation into a normal exit with `gone` set; any other passes through. The
    body must have been read before, and the last `send` must be the last thing in the block.
    """

    def __init__(self, receive: Receive, send: Send, send_timeout_s: float) -> None:
        self.gone = False
        self._receive = receive
        self._send = send
        self._send_timeout_s = send_timeout_s
        self._sending_since: float | None = None
        self._look: asyncio.TimerHandle | None = None
        self._slow = False

    async def __aenter__(self) -> ClientWatch:
        task = asyncio.current_task()
        assert task is not None, "used inside a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watcher.cancel()
        if self._look is not None:
            self._look.cancel()
        if not self.gone:
            return False
        return (
            self._task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError)
        )

    async def send(self, message: Message) -> None:
        """Send one message; waits while the connection's buffer is full. Raises SlowReader."""
        # One timer looks after all sends: one each would cost as much as what is sent.
        loop = asyncio.get_running_loop()
        self._sending_since = loop.time()
        if self._look is None:
            self._look = loop.call_later(self._send_timeout_s, self._look_after, loop)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._slow and self._task.uncancel() <= self._cancelling:
                raise SlowReader from None
            raise
        finally:
            self._sending_since = None

    def _look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look = None
        if self._sending_since is None:
            return  # the next send starts it again
        left = self._sending_since + self._send_timeout_s - loop.time()
        if left > 0:
            self._look = loop.call_later(left, self._look_after, loop)
        else:
            self._slow = True
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()
