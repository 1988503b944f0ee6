"""A request's events on their way from the engine's thread to the reader on its own event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from deepseek.core.engine import Event, Finish, Tokens
from deepseek.core.errors import EngineError


class Mailbox:
    """A request's events on its caller's event loop. While the reader is slow, neighbouring tokens are joined, so it
    never holds more than its text. The engine knows the mailbox only, so that a dropped stream can be noticed."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.complete = False  # the engine has delivered Finish, read or not
        self._loop = asyncio.get_running_loop()
        self.events: deque[Event] = deque()
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None  # what admits the request, kept from the garbage collector
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
            put(self.events, event)
        self.arrived.set()

    def refuse(self, error: Exception) -> None:
        """The request was not admitted after all: its reader gets the error. Called on the caller's event loop."""
        self.complete, self.error = True, error
        self.arrived.set()


class StreamOwner(Protocol):
    """What a stream tells when it is left."""

    async def abort(self, request_id: str) -> None: ...
    def abandon(self, mailbox: Mailbox) -> None: ...


class Stream:
    """What `generate` returns. Leaving it, closing it, dropping it or cancelling its reader aborts the request."""

    def __init__(self, owner: StreamOwner, mailbox: Mailbox) -> None:
        self._owner, self._mailbox = owner, mailbox
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
            if mailbox.error is not None:
                self._ended = True
                raise mailbox.error
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
            await self._owner.abort(self._mailbox.request_id)

    def __del__(self) -> None:
        if not self._mailbox.complete:
            self._owner.abandon(self._mailbox)


def put(events: deque[Event], event: Event) -> None:
    """Add an event to those not read yet. Tokens are joined to unread ones of their choice, so that there are never more
    of them than choices; tokens of other choices may be between, whose order means nothing."""
    if isinstance(event, Tokens):
        for at in range(len(events) - 1, -1, -1):
            last = events[at]
            if not isinstance(last, Tokens) or last.weights_version != event.weights_version:
                break
            if last.choice == event.choice:
                events[at] = joined(last, event)
                return
    events.append(event)


def joined(first: Tokens, second: Tokens) -> Tokens:
    # The text flushed at a deadline comes without tokens, hence without logprobs.
    logprobs = (first.logprobs or ()) + (second.logprobs or ())
    return Tokens(
        first.request_id,
        first.choice,
        first.text + second.text,
        first.token_ids + second.token_ids,
        logprobs or None,
        second.weights_version,
        first.controls + tuple([len(first.text) + at for at in second.controls]),
    )
