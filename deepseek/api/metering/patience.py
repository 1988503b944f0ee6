"""Writing once more where another server on the same PostgreSQL was in the way.

A group commit holds locks for several requests at once, so two servers may come to wait for each other; PostgreSQL then
lets one of them fail, which has changed nothing and may try again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from deepseek.api.store.writer import Writer
from deepseek.core.errors import StoreError

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

COLLISIONS = frozenset({"40P01", "40001", "55P03"})
"""Deadlock, serialisation failure, lock time-out."""
TRIES = 4


async def write_patiently(writer: Writer, work: Work[T]) -> T:
    """`writer.run(work)`, and again after a collision. Raises what it raises."""
    for _ in range(TRIES - 1):
        try:
            return await writer.run(work)
        except (StoreError, DBAPIError) as error:
            if not _collided(error):
                raise
    return await writer.run(work)


def _collided(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, StoreError) else error
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in COLLISIONS
