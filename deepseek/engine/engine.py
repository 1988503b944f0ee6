"""The engine behind `core.Engine`: the loop on its own thread, streams of events on the callers' event loops."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator

from deepseek.core.engine import Event, Finish, Load, Request, Tokens
from deepseek.core.errors import EngineError
from deepseek.engine.loop import EngineLoop


class Engine:
    """Serves one model. Made anywhere; `generate` is called from an event loop. `close` ends everything."""

    def __init__(self, loop: EngineLoop) -> None:
        self.loop = loop
        # What wakes the thread: None, or a mailbox whose reader is gone. The garbage collector writes here too, at any
        # point of any thread, and of all queues only this one allows that.
        self._mail: queue.SimpleQueue[_Mailbox | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="deepseek-engine", daemon=True)
        self._thread.start()

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """See the protocol. Must be called from a running event loop; the request is queued before this returns."""
        if self._closed:
            raise EngineError("the engine is closed")
        mailbox = _Mailbox(request.id)
        self.loop.add(request, mailbox.receive)
        self._mail.put(None)
        return _Stream(self, mailbox)

    async def abort(self, request_id: str) -> None:
        self.loop.end(request_id, "cancelled")

    def abandon(self, mailbox: _Mailbox) -> None:
        """Abort soon, from wherever a stream is dropped: takes no lock that the dropping thread may hold already."""
        self._mail.put(mailbox)

    def load(self) -> Load:
        return self.loop.load()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.loop.end_all("cancelled")
            self._mail.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        idle = False
        while not self._closed:
            self._read_mail(wait=idle)
            idle = not self.loop.step()

    def _read_mail(self, wait: bool) -> None:
        try:
            while True:
                abandoned = self._mail.get(wait)
                wait = False
                # One that has ended may share its id with a younger request.
                if abandoned is not None and not abandoned.complete:
                    self.loop.end(abandoned.request_id, "cancelled")
        except queue.Empty:
            return


class _Mailbox:
    """A request's events on its caller's event loop. While the reader is slow, neighbouring tokens are joined, so it
    never holds more than its text. The engine knows the mailbox only, so that a dropped stream can be noticed."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.complete = False  # the engine has delivered Finish, read or not
        self._loop = asyncio.get_running_loop()
        self.events: deque[Event] = deque()
        self.arrived = asyncio.Event()

    def receive(self, events: list[Event]) -> None:
        """Called by the engine, on any thread."""
        self.complete = isinstance(events[-1], Finish)
        try:
            self._loop.call_soon_threadsafe(self._put, events)
        except RuntimeError as error:  # the caller's event loop is gone, and the caller with it
            raise EngineError("the reader's event loop is closed") from error

    def _put(self, events: list[Event]) -> None:
        for event in events:
            last = self.events[-1] if self.events else None
            if isinstance(event, Tokens) and isinstance(last, Tokens) and _continues(last, event):
                self.events[-1] = _joined(last, event)
            else:
                self.events.append(event)
        self.arrived.set()


class _Stream:
    """What `generate` returns. Leaving it, closing it, dropping it or cancelling its reader aborts the request."""

    def __init__(self, engine: Engine, mailbox: _Mailbox) -> None:
        self._engine, self._mailbox = engine, mailbox
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        mailbox = self._mailbox
        while True:
            if self._ended:
                raise StopAsyncIteration
            if mailbox.events:
                event = mailbox.events.popleft()
                self._ended = isinstance(event, Finish)
                return event
            mailbox.arrived.clear()
            try:
                await mailbox.arrived.wait()
            except asyncio.CancelledError:
                await self.aclose()
                raise

    async def aclose(self) -> None:
        """Stop reading: the request is aborted if it has not ended, and nothing more comes."""
        self._ended = True
        if not self._mailbox.complete:
            await self._engine.abort(self._mailbox.request_id)

    def __del__(self) -> None:
        if not self._mailbox.complete:
            self._engine.abandon(self._mailbox)


def _continues(first: Tokens, second: Tokens) -> bool:
    return first.choice == second.choice and first.weights_version == second.weights_version


def _joined(first: Tokens, second: Tokens) -> Tokens:
    # The text flushed at a deadline comes without tokens, hence without logprobs.
    logprobs = (first.logprobs or ()) + (second.logprobs or ())
    return Tokens(
        first.request_id,
        first.choice,
        first.text + second.text,
        first.token_ids + second.token_ids,
        logprobs or None,
        second.weights_version,
    )
