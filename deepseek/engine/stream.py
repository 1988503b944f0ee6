"""A request's events on their way from the engine's thread to the reader on its own event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from deepseek.core.engine import Event, Finish, Tokens
from deepseek.core.errors import EngineError

MOST_KEPT = 64
"""Events of a request read as a whole that are kept before their tokens are joined."""


class Mailbox:
    """A request's events on its caller's event loop. While the reader is slow, neighbouring tokens are joined, so it
    never holds more than its text. The engine knows the mailbox only, so that a dropped stream can be noticed.

    whole: after the first tokens, what comes is kept on the engine's side until the end: to wake the reader for every
    token would cost a loop that serves many requests most of its time.
    """

    def __init__(self, request_id: str, whole: bool = False) -> None:
        self.request_id = request_id
        self._keeps = whole
        self._kept: list[Event] = []
        self._begun = False
        self.complete = False  # the engine has delivered Finish, read or not
        self.finish: Finish | None = None
        self._loop = asyncio.get_running_loop()
        self.events: deque[Event] = deque()
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None  # what admits the request, kept from the garbage collector
        self.arrived = asyncio.Event()

    def receive(self, events: list[Event]) -> None:
        """Called by the engine, on any thread."""
        last = events[-1]
        if isinstance(last, Finish):
            self.complete, self.finish = True, last
        elif self._keeps and self._begun:
            self._kept += events
            if len(self._kept) > MOST_KEPT:
                self._kept = compact(self._kept)
            return
        self._begun = self._begun or any(isinstance(event, Tokens) for event in events)
        if self._kept:
            events, self._kept = [*self._kept, *events], []
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

    @property
    def finish(self) -> Finish | None:
        """The request's end, read or not, once it has come to one: when this is closed, at the latest."""
        return self._mailbox.finish

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
    return _all_joined([first, second])


def compact(events: list[Event]) -> list[Event]:
    """The events with tokens joined as `put` joins them, in one pass."""
    result: list[Event] = []
    stretch: dict[int, list[Tokens]] = {}  # by choice, in the order they began
    version = -1
    for event in events:
        if stretch and not (isinstance(event, Tokens) and event.weights_version == version):
            result += map(_all_joined, stretch.values())
            stretch = {}
        if isinstance(event, Tokens):
            version = event.weights_version
            stretch.setdefault(event.choice, []).append(event)
        else:
            result.append(event)
    return [*result, *map(_all_joined, stretch.values())]


def _all_joined(parts: list[Tokens]) -> Tokens:
    if len(parts) == 1:
        return parts[0]
    controls: list[int] = []
    length = 0
    for part in parts:
        controls += [length + at for at in part.controls]
        length += len(part.text)
    return Tokens(
        parts[0].request_id,
        parts[0].choice,
        "".join([part.text for part in parts]),
        tuple([token for part in parts for token in part.token_ids]),
        # The text flushed at a deadline comes without tokens, hence without logprobs.
        tuple([entry for part in parts for entry in part.logprobs or ()]) or None,
        parts[-1].weights_version,
        tuple(controls),
    )
