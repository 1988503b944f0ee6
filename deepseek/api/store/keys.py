"""What is kept about keys and tenants, and every change to it. Functions of a connection: the caller owns the transaction.

Each change raises the counter "keys" in its own transaction and marks the keys it concerns with the new value, so that a
server finds what changed by one comparison (`deepseek.api.identity.ring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from deepseek.api.store.tables import counters, keys, secrets, tenants
from deepseek.core.errors import ConfigError

COUNTER = "keys"
_ADD_TENANT = sa.text("INSERT INTO tenants (name, created) VALUES (:name, :created) ON CONFLICT (name) DO NOTHING")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is kept: everything but the key. Times in seconds since 1970; models None: all of the tenant's."""

    id: str
    tenant: str
    tier: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    created: float
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """suspended: since when every key of the tenant is refused."""

    name: str
    created: float
    suspended: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A key that changed: how it stands now, and until when each of its secrets is good (None: as long as the key)."""

    record: KeyRecord
    digests: Mapping[str, float | None]


class UnknownName(ConfigError):
    """There is no such key or tenant."""


def version(connection: sa.Connection) -> int:
    """Raised by every change; 0 while no key was ever made."""
    return int(connection.execute(sa.select(counters.c.value).where(counters.c.name == COUNTER)).scalar_one())


def changes_since(connection: sa.Connection, seen: int) -> list[Change]:
    """Every key that changed after the counter stood at `seen`."""
    rows = connection.execute(sa.select(keys).where(keys.c.version > seen)).all()
    digests: dict[str, dict[str, float | None]] = {row.id: {} for row in rows}
    held = sa.select(secrets.c.digest, secrets.c.key_id, secrets.c.expires).join_from(secrets, keys)
    for digest, key_id, expires in connection.execute(held.where(keys.c.version > seen)):
        digests.setdefault(key_id, {})[digest] = expires
    return [Change(_record(row), digests[row.id]) for row in rows]


def suspended_tenants(connection: sa.Connection) -> frozenset[str]:
    """Those whose callers are all refused."""
    return frozenset(connection.execute(sa.select(tenants.c.name).where(tenants.c.suspended.is_not(None))).scalars())


def add_key(connection: sa.Connection, record: KeyRecord, digest: str) -> None:
    """Keep a new key, and its tenant if that is new."""
    add_tenant(connection, record.tenant, record.created)
    connection.execute(
        keys.insert().values(
            id=record.id,
            tenant=record.tenant,
            tier=record.tier,
            name=record.name,
            scopes=list(record.scopes),
            models=None if record.models is None else list(record.models),
            created=record.created,
            expires=record.expires,
            version=_raise_counter(connection),
        )
    )
    connection.execute(secrets.insert().values(digest=digest, key_id=record.id, created=record.created))


def rotate_key(connection: sa.Connection, key_id: str, digest: str, now: float, grace_s: float) -> KeyRecord:
    """Give a key a new secret; those it had are good for `grace_s` more, or as long as they were, if that is less.

    Raises UnknownName; ConfigError for a key that is revoked or has expired.
    """
    record = get_key(connection, key_id, locked=True)
    if record.revoked is not None or (record.expires is not None and record.expires <= now):
        state = "revoked" if record.revoked is not None else "expired"
        raise ConfigError("a key that is not good cannot be rotated", where=key_id, found=state, fix="create another")
    ends = now + grace_s
    old = secrets.c.key_id == key_id
    connection.execute(secrets.delete().where(old, secrets.c.expires <= now))
    connection.execute(
        secrets.update().where(old, sa.or_(secrets.c.expires.is_(None), secrets.c.expires > ends)).values(expires=ends)
    )
    connection.execute(secrets.insert().values(digest=digest, key_id=key_id, created=now))
    _touch(connection, keys.c.id == key_id)
    return record


def revoke_key(connection: sa.Connection, key_id: str, now: float) -> KeyRecord:
    """End a key for good; the time of the first revocation stays. Raises UnknownName."""
    record = get_key(connection, key_id, locked=True)
    if record.revoked is None:
        connection.execute(keys.update().where(keys.c.id == key_id).values(revoked=now))
        _touch(connection, keys.c.id == key_id)
    return get_key(connection, key_id)


def get_key(connection: sa.Connection, key_id: str, *, locked: bool = False) -> KeyRecord:
    """One key. locked: hold its row until the transaction ends (PostgreSQL). Raises UnknownName."""
    query = sa.select(keys).where(keys.c.id == key_id)
    # PostgreSQL takes no text with a NUL in it, not even to look for.
    row = None if "\0" in key_id else connection.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        raise UnknownName("there is no such key", where=key_id[:80])
    return _record(row)


def list_keys(
    connection: sa.Connection, *, tenant: str | None = None, limit: int = 1000, after: str | None = None
) -> list[KeyRecord]:
    """Keys in the order they were made. after: the id of the last one seen."""
    query = sa.select(keys).order_by(keys.c.created, keys.c.id).limit(limit)
    if tenant is not None:
        query = query.where(keys.c.tenant == tenant)
    if after is not None:
        last = get_key(connection, after)
        query = query.where(sa.tuple_(keys.c.created, keys.c.id) > (last.created, last.id))
    return [_record(row) for row in connection.execute(query)]


def mark_used(connection: sa.Connection, times: Mapping[str, float]) -> None:
    """When keys were last used. No change in the sense of the counter."""
    statement = (
        keys.update()
        .where(keys.c.id == sa.bindparam("key"), sa.func.coalesce(keys.c.last_used, 0.0) < sa.bindparam("at"))
        .values(last_used=sa.bindparam("at"))
    )
    if times:
        connection.execute(statement, [{"key": key, "at": at} for key, at in sorted(times.items())])


def add_tenant(connection: sa.Connection, name: str, now: float) -> bool:
    """Keep a tenant; False if it was there."""
    return connection.execute(_ADD_TENANT, {"name": name, "created": now}).rowcount == 1


def get_tenant(connection: sa.Connection, name: str) -> TenantRecord:
    """Raises UnknownName."""
    query = sa.select(tenants).where(tenants.c.name == name)
    row = None if "\0" in name else connection.execute(query).one_or_none()
    if row is None:
        raise UnknownName("there is no such tenant", where=name[:80])
    return TenantRecord(row.name, row.created, row.suspended)


def list_tenants(connection: sa.Connection, *, limit: int = 1000, after: str = "") -> list[TenantRecord]:
    """Tenants by name. after: the last one seen."""
    query = sa.select(tenants).where(tenants.c.name > after).order_by(tenants.c.name).limit(limit)
    return [TenantRecord(row.name, row.created, row.suspended) for row in connection.execute(query)]


def suspend_tenant(connection: sa.Connection, name: str, since: float | None) -> TenantRecord:
    """Refuse every caller of a tenant, or with None take that back. Raises UnknownName."""
    held = get_tenant(connection, name)
    if (held.suspended is None) != (since is None):
        connection.execute(tenants.update().where(tenants.c.name == name).values(suspended=since))
        _raise_counter(connection)
    return get_tenant(connection, name)


def _touch(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    connection.execute(keys.update().where(which).values(version=_raise_counter(connection)))


def _raise_counter(connection: sa.Connection) -> int:
    raised = counters.update().where(counters.c.name == COUNTER).values(value=counters.c.value + 1)
    return int(connection.execute(raised.returning(counters.c.value)).scalar_one())


def _record(row: sa.Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        tenant=row.tenant,
        tier=row.tier,
        name=row.name,
        scopes=_strings(row.scopes),
        models=None if row.models is None else _strings(row.models),
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_used=row.last_used,
    )


def _strings(values: Iterable[object] | Sequence[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
