"""What ties the usage of a request to the Idempotency-Key it came with, across the layers between them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import sqlalchemy as sa

from deepseek.api.metering.tables import idempotency


@dataclass(slots=True, eq=False)
class Claim:
    """One request's hold on a key. id, token: of its row in `idempotency`.

    failed: a part of it ended with an error, or was cancelled by the server: its answer is not worth keeping.
    over: the request has ended; what it left running in the background is not part of it.
    owed: its usage could not be written and is tried again: until then its key is held, and then its answer is lost.
    """

    id: str
    token: str
    failed: bool = False
    over: bool = False
    owed: bool = False


current_claim: ContextVar[Claim | None] = ContextVar("current_claim", default=None)

_MINE = (idempotency.c.id == sa.bindparam("b_id"), idempotency.c.token == sa.bindparam("b_token"))
_MARK = idempotency.update().where(*_MINE).values(settled=True)
_LOSE = idempotency.update().where(*_MINE, idempotency.c.state == "running").values(settled=True, state="lost")


def claimed() -> Claim | None:
    """Of the request that this task works for."""
    claim = current_claim.get()
    return None if claim is None or claim.over else claim


def mark_settled(connection: sa.Connection, claim: Claim) -> None:
    """In the transaction that charges it: from now on, losing its answer must not free the key."""
    connection.execute(_MARK, {"b_id": claim.id, "b_token": claim.token})


def mark_lost(connection: sa.Connection, claim: Claim) -> None:
    """In the transaction that charges it late: nobody got its answer, and running it again would charge it again."""
    connection.execute(_LOSE, {"b_id": claim.id, "b_token": claim.token})


def owe(claim: Claim | None) -> None:
    """Its usage is written later, so its answer is an error, and its key must not be free before."""
    if claim is not None:
        claim.owed = claim.failed = True
