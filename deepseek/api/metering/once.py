"""Work that may be done twice and must be charged once: a line of a batch whose server died between its charge and the
answer in its batch's results is asked again, and its charge is known by an id that is the same each time.

A line may have several prompts, which are requests of their own; each is known by its tokens, and by how many equal ones
came before it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field

import sqlalchemy as sa

from deepseek.api.metering.tables import usage
from deepseek.core.engine import Request


@dataclass(slots=True, eq=False)
class Piece:
    """One attempt at a piece of work. id: the same for each attempt, and for no other piece."""

    id: str
    _seen: Counter[str] = field(default_factory=Counter)

    def once(self, request: Request) -> str:
        """What this request's charge is known by: 64 hexadecimal digits."""
        asked = hashlib.sha256(repr((self.id, request.prompt_ids)).encode()).hexdigest()
        self._seen[asked] += 1
        return hashlib.sha256(f"{asked} {self._seen[asked]}".encode()).hexdigest()


current_piece: ContextVar[Piece | None] = ContextVar("current_piece", default=None)
"""What this task works for, where that may be done twice."""

_KNOWN = sa.select(usage.c.id).where(usage.c.once == sa.bindparam("b_once"))


def once_of(request: Request) -> str | None:
    piece = current_piece.get()
    return None if piece is None else piece.once(request)


def is_charged(connection: sa.Connection, once: str) -> bool:
    return connection.execute(_KNOWN, {"b_once": once}).first() is not None
