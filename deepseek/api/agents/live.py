"""A run that goes on in this process, and whoever follows it.

A follower has a bounded queue of its own. One that reads too slowly loses what did not fit and is told so (`Lost`); the events
are on disk, and are read from there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from deepseek.agent.rows import Recorded
from deepseek.agent.run import RunResult
from deepseek.core.deltas import Delta

MAX_UNREAD = 2048


@dataclass(frozen=True, slots=True)
class Lost:
    """More came than the follower's queue could hold."""


Piece = Recorded | Delta | Lost


class Follower:
    """What one reader has not read yet."""

    def __init__(self, most: int = MAX_UNREAD) -> None:
        self._most = most
        self._unread: deque[Piece] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def put(self, piece: Recorded | Delta) -> None:
        if len(self._unread) >= self._most:
            self._unread.clear()
            self._unread.append(Lost())
        self._unread.append(piece)
        self._arrived.set()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def get(self) -> Piece | None:
        """The next; None at the run's end."""
        while not self._unread:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popleft()


class LiveRun:
    """task: what runs it; it ends without an exception, and `error` says with which it would have. first: who follows it from
    its beginning, if anybody (`followed`)."""

    def __init__(self, run_id: str, *, followed: bool = False) -> None:
        self.run_id = run_id
        self.begun, self.over = asyncio.Event(), asyncio.Event()
        self.result: RunResult | None = None
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._followers: set[Follower] = set()
        self.first = self.follow() if followed else None

    def tell(self, piece: Recorded | Delta) -> None:
        for follower in self._followers:
            follower.put(piece)
        if isinstance(piece, Recorded):
            self.begun.set()

    def end(self) -> None:
        for follower in self._followers:
            follower.end()
        self.begun.set()
        self.over.set()

    def follow(self) -> Follower:
        follower = Follower()
        if self.over.is_set():
            follower.end()
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)
