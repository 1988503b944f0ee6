"""Results of pure tools, kept for a while: least recently used first out, each with an end, and made once at a time.

The key is tenant, tool, version and canonical arguments: no tenant sees what another's call found. Calls for one key
that come together wait for the first of them, the leader. Only success is kept. A leader that fails or is cancelled
decides nothing for the others: the next of them leads.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Key = tuple[str | None, str, str, str]

DEFAULT_ENTRIES = 1024
DEFAULT_BYTES = 32 << 20
DEFAULT_TTL_S = 300.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A result's text, and whether it is not all of it."""

    text: str
    truncated: bool


class ToolCache:
    """Bounded in entries and in bytes of text (keys included). ttl_s: for tools that name none. clock: in seconds."""

    def __init__(
        self,
        max_entries: int = DEFAULT_ENTRIES,
        max_bytes: int = DEFAULT_BYTES,
        ttl_s: float = DEFAULT_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries, self._max_bytes, self._ttl_s, self._clock = max_entries, max_bytes, ttl_s, clock
        self._entries: OrderedDict[Key, tuple[Kept, float]] = OrderedDict()
        self._bytes = 0
        self._flights: dict[Key, asyncio.Future[Kept | None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Kept | None:
        """What is kept under the key and not too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        kept, until = entry
        if self._clock() >= until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return kept

    def put(self, key: Key, kept: Kept, ttl_s: float | None = None) -> None:
        """Keep it for ttl_s seconds, the cache's own time if None; what alone is larger than the cache is not kept."""
        if key in self._entries:
            self._drop(key)
        size = _size(key, kept)
        if size > self._max_bytes:
            return
        self._entries[key] = kept, self._clock() + (self._ttl_s if ttl_s is None else ttl_s)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    def clear(self, tenant: str | None = None) -> None:
        """Forget everything, or one tenant's."""
        for key in [key for key in self._entries if tenant is None or key[0] == tenant]:
            self._drop(key)

    async def through(
        self, key: Key, make: Callable[[], Awaitable[Kept | None]], wait_s: float, ttl_s: float | None = None
    ) -> tuple[Kept | None, bool]:
        """What is kept, or what `make` makes now (None: it failed), and whether somebody else made it.

        Raises TimeoutError where another's call did not come back within wait_s seconds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            kept = self.get(key)
            if kept is not None:
                return kept, True
            flight = self._flights.get(key)
            if flight is None or flight.get_loop() is not loop:
                return await self._lead(key, make, ttl_s, loop.create_future()), False
            await asyncio.wait((flight,), timeout=max(0.0, until - loop.time()))
            if not flight.done():
                raise TimeoutError
            kept = flight.result()
            if kept is not None:
                return kept, True

    async def _lead(
        self,
        key: Key,
        make: Callable[[], Awaitable[Kept | None]],
        ttl_s: float | None,
        flight: asyncio.Future[Kept | None],
    ) -> Kept | None:
        self._flights[key] = flight
        kept = None
        try:
            kept = await make()
            if kept is not None:
                self.put(key, kept, ttl_s)
            return kept
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.set_result(kept)

    def _drop(self, key: Key) -> None:
        kept, _ = self._entries.pop(key)
        self._bytes -= _size(key, kept)


def _size(key: Key, kept: Kept) -> int:
    return len(kept.text) + sum(len(part) for part in key if part is not None)
