"""What a run says and does, on its way to whoever reads it as it goes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Pieces(Generic[T]):
    """A queue on one event loop. `put` waits while more than `most` are unread; what is put at once waits for nothing, and
    whoever does so often calls `room` between."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._unread: deque[T] = deque()
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()
        self._ended = False

    def put_now(self, piece: T) -> None:
        self._unread.append(piece)
        self._arrived.set()

    async def put(self, piece: T) -> None:
        await self.room()
        self.put_now(piece)

    async def room(self) -> None:
        """Wait until the reader has caught up."""
        while len(self._unread) > self._most:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._arrived.set()

    async def get(self) -> T | None:
        """The next one; None at the end."""
        while not self._unread:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._taken.set()
        return self._unread.popleft()
