"""Key-value memory: what a tenant's agents were told to remember, in that tenant's database.

Keys are compared without case and surplus spaces; values are kept to the letter.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Awaitable, Callable

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolFailed, ToolRetry
from deepseek.agent.tools.services import Databases

MAX_KEY_CHARS = 200
MAX_VALUE_CHARS = 16_000
MAX_KEYS = 10_000

# The table is one of the program's own: ad-hoc SQL does not see what begins with `_`.
_TABLE = """CREATE TABLE IF NOT EXISTS _agent_memory (
    key TEXT PRIMARY KEY,  -- folded, as it is looked up
    name TEXT NOT NULL,  -- as it was written
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID"""
_PUT = """INSERT INTO _agent_memory (key, name, value) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET name = excluded.name, value = excluded.value, updated_at = excluded.updated_at"""


def memory_tools(databases: Databases) -> dict[str, Callable[..., Awaitable[str]]]:
    """`memory_set` and `memory_get`."""

    async def memory_set(key: str, value: str, context: ToolContext) -> str:
        """Remember a value under a key"""
        folded = _folded(key)
        if len(value) > MAX_VALUE_CHARS:
            raise ToolRetry(
                "the value is too long", found=f"{len(value)} characters", expected=_at_most(MAX_VALUE_CHARS)
            )

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(_TABLE)
            connection.execute(_PUT, (folded, key.strip(), value))
            count = connection.execute("SELECT count(*) FROM _agent_memory").fetchone()[0]
            if count > MAX_KEYS:  # which undoes it
                raise ToolFailed("the memory is full", expected=f"at most {MAX_KEYS} keys")

        await databases.of(context).write(put)
        return "saved"

    async def memory_get(key: str, context: ToolContext) -> str:
        """Recall a value by its key"""
        folded = _folded(key)

        def get(connection: sqlite3.Connection) -> str | None:
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = '_agent_memory'").fetchone():
                return None
            row = connection.execute("SELECT value FROM _agent_memory WHERE key = ?", (folded,)).fetchone()
            return None if row is None else str(row[0])

        value = await databases.of(context).read(get)
        return "not found" if value is None else value

    return {"memory_set": memory_set, "memory_get": memory_get}


def _at_most(most: int) -> str:
    return f"at most {most} characters"


def _folded(key: str) -> str:
    if len(key) > MAX_KEY_CHARS:
        raise ToolRetry("the key is too long", found=f"{len(key)} characters", expected=_at_most(MAX_KEY_CHARS))
    folded = " ".join(unicodedata.normalize("NFKC", key).casefold().split())
    if not folded:
        raise ToolRetry("the key is empty")
    return folded
