"""Files of tenants: a row each in the database, contents in the tenant's directory under the file's id.

The functions of a connection leave the transaction to their caller.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from deepseek.api.kept.tables import files

MAX_FILE_BYTES = 200 * 2**20
MAX_TENANT_BYTES = 2 * 2**30
MAX_TENANT_FILES = 10_000


@dataclass(frozen=True, slots=True)
class KeptFile:
    """Times in seconds since 1970."""

    id: str
    name: str
    purpose: str
    size: int
    created: float
    expires: float | None = None

    def document(self) -> dict[str, Any]:
        """OpenAI's file object."""
        document: dict[str, Any] = {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }
        return document if self.expires is None else document | {"expires_at": int(self.expires)}


def new_file_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def held(connection: sa.Connection, tenant: str) -> tuple[int, int]:
    """Number and bytes of the tenant's files."""
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.size), 0)).where(files.c.tenant == tenant)
    ).one()
    return int(count), int(size)


def put(connection: sa.Connection, tenant: str, file: KeptFile) -> bool:
    """Keep a file's row. False where the tenant's files would be more, or larger, than they may."""
    count, size = held(connection, tenant)
    if count >= MAX_TENANT_FILES or size + file.size > MAX_TENANT_BYTES:
        return False
    put_anyway(connection, tenant, file)
    return True


def put_anyway(connection: sa.Connection, tenant: str, file: KeptFile) -> None:
    """Keep the row of a file of our own making, or renew it."""
    connection.execute(files.delete().where(files.c.tenant == tenant, files.c.id == file.id))
    connection.execute(
        files.insert().values(
            tenant=tenant,
            id=file.id,
            name=file.name,
            purpose=file.purpose,
            size=file.size,
            created=file.created,
            expires=file.expires,
        )
    )


def get(connection: sa.Connection, tenant: str, file_id: str) -> KeptFile | None:
    """The tenant's file with this id, if it has not expired."""
    row = connection.execute(sa.select(files).where(files.c.tenant == tenant, files.c.id == file_id)).one_or_none()
    return None if row is None or (row.expires is not None and row.expires <= time.time()) else _file(row)


def page(
    connection: sa.Connection, tenant: str, *, after: str | None, limit: int, purpose: str | None, newest_first: bool
) -> tuple[list[KeptFile], bool] | None:
    """Files in order of their making, from the one that follows `after`, and whether there are more. None: no such `after`."""
    query = sa.select(files).where(
        files.c.tenant == tenant, sa.or_(files.c.expires.is_(None), files.c.expires > time.time())
    )
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        anchor = get(connection, tenant, after)
        if anchor is None:
            return None
        place = sa.tuple_(files.c.created, files.c.id)
        there = sa.tuple_(sa.literal(anchor.created), sa.literal(anchor.id))
        query = query.where(place < there if newest_first else place > there)
    order = (files.c.created.desc(), files.c.id.desc()) if newest_first else (files.c.created, files.c.id)
    rows: Sequence[Any] = connection.execute(query.order_by(*order).limit(limit + 1)).all()
    return [_file(row) for row in rows[:limit]], len(rows) > limit


def delete(connection: sa.Connection, tenant: str, file_id: str) -> bool:
    """Forget the row; whether it was there."""
    return bool(connection.execute(files.delete().where(files.c.tenant == tenant, files.c.id == file_id)).rowcount)


def expired(connection: sa.Connection, tenant: str) -> list[str]:
    """Ids of the tenant's files whose time is over."""
    query = sa.select(files.c.id).where(files.c.tenant == tenant, files.c.expires <= time.time())
    return list(connection.execute(query).scalars())


def _file(row: Any) -> KeptFile:
    return KeptFile(row.id, row.name, row.purpose, row.size, row.created, row.expires)
