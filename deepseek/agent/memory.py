"""What an agent remembers of a conversation: its messages, kept for a tenant, and said in short where they grow too long.

    agent = Agent(model, tools, memory=Memory(store))
    await agent.run("My name is Ada.", conversation="c1")
    await agent.run("What is my name?", conversation="c1")

A conversation is kept message by message as it was, calls and results included, so that the next run sees exactly what the
model said. Once it is longer than `most_chars`, what is older than the last `keep` exchanges is summarised by the model.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.agent.encode import message_json, message_of
from deepseek.agent.record import EventStore
from deepseek.core.errors import ConfigError
from deepseek.core.messages import Message, TextPart, ToolCallPart, ToolResultPart

SUMMARY_PROMPT = (
    "Summarise our conversation so far in a few sentences, for yourself to go on with: what was asked and answered, names, "
    "numbers, and what is still to do."
)


@dataclass(frozen=True, slots=True)
class Memory:
    """store: where conversations are kept. most_chars: of a conversation as it is shown; None: no bound of its own.
    keep: exchanges that are never summarised, the one at hand among them."""

    store: EventStore
    most_chars: int | None = 24_000
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1 or (self.most_chars is not None and self.most_chars < 1):
            raise ConfigError("out of range", where="memory", expected="keep and most_chars of at least 1")

    async def recall(self, tenant: str, conversation: str) -> list[Message]:
        """All that is kept of it. Raises StoreError."""

        def work(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute("SELECT message FROM turns WHERE conversation = ? ORDER BY seq", (conversation,))
            return [row[0] for row in rows]

        return [message_of(json.loads(text)) for text in await self.store.read(tenant, work)]

    async def keep_all(self, tenant: str, conversation: str, messages: Sequence[Message], *, anew: bool) -> None:
        """Add these, or put them in the place of all that was kept (anew). On disk when it returns. Raises StoreError."""
        written = [json.dumps(message_json(message), ensure_ascii=True) for message in messages]

        def work(connection: sqlite3.Connection) -> None:
            if anew:
                connection.execute("DELETE FROM turns WHERE conversation = ?", (conversation,))
            query = "SELECT coalesce(max(seq), 0) FROM turns WHERE conversation = ?"
            last = connection.execute(query, (conversation,)).fetchone()[0]
            rows = [(conversation, last + index, text) for index, text in enumerate(written, 1)]
            connection.executemany("INSERT INTO turns VALUES (?, ?, ?)", rows)

        await self.store.do(tenant, work)

    async def forget(self, tenant: str, conversation: str) -> None:
        await self.keep_all(tenant, conversation, (), anew=True)

    def too_long(self, messages: Sequence[Message]) -> int:
        """How many of the oldest messages are to be summarised; 0: none."""
        if self.most_chars is None or sum(map(length, messages)) <= self.most_chars:
            return 0
        starts = [index for index, message in enumerate(messages) if message.role == "user"]
        return starts[-self.keep] if len(starts) > self.keep else 0


def length(message: Message) -> int:
    """Characters of a message, calls and results included."""
    total = 0
    for part in message.parts:
        if isinstance(part, TextPart | ToolResultPart):
            total += len(part.text)
        elif isinstance(part, ToolCallPart):
            total += len(part.name) + len(part.arguments)
    return total


def shortened(messages: Sequence[Message]) -> list[Message] | None:
    """The conversation without its oldest exchange; None where nothing can be left out.

    What is left begins with a user's message, and no call stands without its results. The last message of a user and
    what follows it stay.
    """
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    if len(starts) > 1:
        return list(messages[starts[1] :])
    # One exchange alone: its oldest calls with their results go.
    for index, message in enumerate(messages):
        if message.role == "assistant" and any(isinstance(part, ToolCallPart) for part in message.parts):
            end = index + 1
            while end < len(messages) and messages[end].role == "tool":
                end += 1
            if end < len(messages):
                return [*messages[:index], *messages[end:]]
    return None
