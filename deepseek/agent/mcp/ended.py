"""Why a connection is over: told by the transport, which sees it, to the owner, who says it to everybody."""

from __future__ import annotations

import asyncio


class Ended:
    """Set once. reason: for a person."""

    def __init__(self) -> None:
        self.reason = ""
        self._event = asyncio.Event()

    def set(self, reason: str) -> None:
        """The first reason stands: what follows from it says less."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()
