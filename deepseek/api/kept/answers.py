"""Answers that clients may ask for again, or go on from. Functions of a connection: the caller owns the transaction.

A tenant's are bounded by number, bytes and age; the oldest go first.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from deepseek.api.kept.tables import answers

MAX_ANSWERS = 10_000
MAX_BYTES = 256 * 2**20
MAX_AGE_S = 30 * 86_400.0
MAX_CHAIN = 256
"""Answers that one may go on from, one after the other."""
ROOM = 0.9
"""Of the limits, what is left of a tenant's answers once they were exceeded: so that not every answer has to make room."""


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """document: as it was answered. items: what it was asked with."""

    id: str
    previous: str | None
    document: dict[str, Any]
    items: list[dict[str, Any]]


def put(connection: sa.Connection, tenant: str, answer: PastAnswer) -> None:
    """Keep an answer, and make room for it."""
    document, items = json.dumps(answer.document), json.dumps(answer.items)
    size = len(document) + len(items)
    count, held, oldest = connection.execute(
        sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(answers.c.size), 0), sa.func.min(answers.c.created)
        ).where(answers.c.tenant == tenant)
    ).one()
    now = time.time()
    if count >= MAX_ANSWERS or held + size > MAX_BYTES or (oldest is not None and oldest < now - MAX_AGE_S):
        _make_room(connection, tenant, now, size)
    connection.execute(
        answers.insert().values(
            tenant=tenant,
            id=answer.id,
            previous=answer.previous,
            created=now,
            size=size,
            document=document,
            items=items,
        )
    )


def get(connection: sa.Connection, tenant: str, answer_id: str) -> PastAnswer | None:
    """The tenant's answer with this id."""
    row = connection.execute(
        sa.select(answers).where(
            answers.c.tenant == tenant, answers.c.id == answer_id, answers.c.created >= time.time() - MAX_AGE_S
        )
    ).one_or_none()
    return None if row is None else _answer(row)


def chain(connection: sa.Connection, tenant: str, answer_id: str) -> list[PastAnswer] | None:
    """An answer and all that it goes on from, the first of them first. None where one of them is not kept."""
    found: list[PastAnswer] = []
    following: str | None = answer_id
    while following is not None:
        answer = get(connection, tenant, following)
        if answer is None or len(found) >= MAX_CHAIN:
            return None
        found.append(answer)
        following = answer.previous
    return found[::-1]


def delete(connection: sa.Connection, tenant: str, answer_id: str) -> bool:
    """Whether it was there."""
    result = connection.execute(answers.delete().where(answers.c.tenant == tenant, answers.c.id == answer_id))
    return bool(result.rowcount)


def _make_room(connection: sa.Connection, tenant: str, now: float, size: int) -> None:
    connection.execute(answers.delete().where(answers.c.tenant == tenant, answers.c.created < now - MAX_AGE_S))
    rows = connection.execute(
        sa.select(answers.c.id, answers.c.size).where(answers.c.tenant == tenant).order_by(answers.c.created)
    ).all()
    count, held = len(rows), sum(row.size for row in rows)
    if count < MAX_ANSWERS and held + size <= MAX_BYTES:
        return
    doomed = []
    for row in rows:
        if count <= ROOM * MAX_ANSWERS and held + size <= ROOM * MAX_BYTES:
            break
        doomed.append(row.id)
        count, held = count - 1, held - row.size
    for begin in range(0, len(doomed), 500):
        connection.execute(
            answers.delete().where(answers.c.tenant == tenant, answers.c.id.in_(doomed[begin : begin + 500]))
        )


def _answer(row: Any) -> PastAnswer:
    return PastAnswer(row.id, row.previous, json.loads(row.document), json.loads(row.items))
