"""What the tests of runs share: tools that tell what they did, a store in a temporary place, and ways to read a run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.record import EventStore, StoredEvent

T = TypeVar("T")
PATIENCE_S = 60.0


def go(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def store_in(directory: Path) -> EventStore:
    return EventStore(lambda tenant: directory / tenant, linger_s=0.0)


class Deeds:
    """Tools that keep what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.registry = ToolRegistry()

        @self.registry.register("add")
        async def add(a: int, b: int) -> int:
            """Add two numbers."""
            self.done.append(f"add {a} {b}")
            return a + b

        @self.registry.register("say")
        async def say(text: str) -> str:
            """Say a text back."""
            self.done.append(f"say {text}")
            return text

        @self.registry.register("send", needs_approval=True)
        async def send(to: str) -> str:
            """Send a letter."""
            self.done.append(f"send {to}")
            return f"sent to {to}"

        @self.registry.register("fail")
        async def fail() -> str:
            """Fail."""
            self.done.append("fail")
            raise ValueError("it is broken")


async def kinds(store: EventStore, run_id: str, tenant: str = "local") -> list[str]:
    return [event.kind for event in await store.events(tenant, run_id)]


async def events_of(store: EventStore, run_id: str, kind: str, tenant: str = "local") -> list[StoredEvent]:
    return [event for event in await store.events(tenant, run_id) if event.kind == kind]
