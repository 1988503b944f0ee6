"""Batches of requests: a row each. The functions of a connection leave the transaction to their caller."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import sqlalchemy as sa

from deepseek.api.kept.tables import batches

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
UNFINISHED: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
MAX_UNFINISHED = 64
"""Of one tenant."""


@dataclass(frozen=True, slots=True)
class BatchError:
    """What is wrong with a line of the input, or the whole of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. Times in seconds since 1970, by the status they belong to.

    caller: whose requests they are, as `deepseek.api.kept.callers` writes it. output, errors_file: ids that its results
    are kept under; set from the beginning. failures: why it could not begin. usage: prompt, completion tokens.
    """

    tenant: str
    id: str
    created: float
    status: BatchStatus
    endpoint: str
    input_file: str
    caller: dict[str, Any]
    output: str
    errors_file: str
    expires: float
    metadata: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    failures: tuple[BatchError, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def at(self, status: BatchStatus, now: float, **changes: Any) -> Batch:
        """The batch in another status, since now."""
        return replace(self, status=status, times={**self.times, status: now}, **changes)

    def document(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        ended = self.status not in UNFINISHED
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": (
                {"object": "list", "data": [asdict(failure) for failure in self.failures]} if self.failures else None
            ),
            "input_file_id": self.input_file,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output if ended and self.completed else None,
            "error_file_id": self.errors_file if ended and self.failed else None,
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            **{
                f"{status}_at": int(self.times[status]) if status in self.times else None
                for status in ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
            },
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
            "metadata": self.metadata or None,
        }


def new_batch_id() -> str:
    return f"batch-{secrets.token_hex(16)}"


def add(connection: sa.Connection, batch: Batch) -> bool:
    """Keep a new batch. False where too many of the tenant's have not ended."""
    unfinished = connection.execute(
        sa.select(sa.func.count()).where(batches.c.tenant == batch.tenant, batches.c.status.in_(UNFINISHED))
    ).scalar_one()
    if unfinished >= MAX_UNFINISHED:
        return False
    connection.execute(
        batches.insert().values(
            tenant=batch.tenant,
            id=batch.id,
            created=batch.created,
            status=batch.status,
            input_file=batch.input_file,
            document=_written(batch),
        )
    )
    return True


def save(connection: sa.Connection, batch: Batch, *, unless: Sequence[BatchStatus] = ()) -> bool:
    """Write a batch's new state, unless it stands in one of these; whether it was written."""
    mine = sa.and_(batches.c.tenant == batch.tenant, batches.c.id == batch.id, batches.c.status.not_in(unless))
    values = {"status": batch.status, "document": _written(batch)}
    return bool(connection.execute(batches.update().where(mine).values(**values)).rowcount)


def get(connection: sa.Connection, tenant: str, batch_id: str) -> Batch | None:
    """The tenant's batch with this id."""
    row = connection.execute(
        sa.select(batches.c.document).where(batches.c.tenant == tenant, batches.c.id == batch_id)
    ).one_or_none()
    return None if row is None else _read(row.document)


def page(connection: sa.Connection, tenant: str, after: str | None, limit: int) -> tuple[list[Batch], bool] | None:
    """The newest first, from the one that follows `after`, and whether there are more. None: no such `after`."""
    query = sa.select(batches.c.document).where(batches.c.tenant == tenant)
    if after is not None:
        anchor = get(connection, tenant, after)
        if anchor is None:
            return None
        there = sa.tuple_(sa.literal(anchor.created), sa.literal(anchor.id))
        query = query.where(sa.tuple_(batches.c.created, batches.c.id) < there)
    query = query.order_by(batches.c.created.desc(), batches.c.id.desc()).limit(limit + 1)
    rows = connection.execute(query).scalars().all()
    return [_read(row) for row in rows[:limit]], len(rows) > limit


def uses(connection: sa.Connection, tenant: str, file_id: str) -> bool:
    """Whether an unfinished batch reads the file."""
    query = sa.select(batches.c.id).where(
        batches.c.tenant == tenant, batches.c.input_file == file_id, batches.c.status.in_(UNFINISHED)
    )
    return connection.execute(query.limit(1)).first() is not None


def unfinished(connection: sa.Connection) -> list[Batch]:
    """Of all tenants, the oldest first: for the runner alone."""
    query = sa.select(batches.c.document).where(batches.c.status.in_(UNFINISHED)).order_by(batches.c.created)
    return [_read(row) for row in connection.execute(query).scalars()]


def _written(batch: Batch) -> str:
    return json.dumps(asdict(batch))


def _read(text: str) -> Batch:
    values = json.loads(text)
    known = {item.name for item in fields(Batch)}
    values = {name: value for name, value in values.items() if name in known}
    values["failures"] = tuple(BatchError(**failure) for failure in values["failures"])
    return Batch(**values)
