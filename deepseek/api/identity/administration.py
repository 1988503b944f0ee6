"""Making, rotating and revoking keys, for the admin API and for the command line: checked, committed, and seen at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from deepseek.api.identity.keys import digest_of, new_key, new_key_id
from deepseek.api.scopes import Scope
from deepseek.api.store import keys as store
from deepseek.api.store.keys import KeyRecord
from deepseek.api.store.tables import NAME_CHARS
from deepseek.core.errors import ConfigError

DEFAULT_SCOPES = ("read", "infer")
SCOPES = tuple(scope.value for scope in Scope if scope is not Scope.PUBLIC)
GRACE_S = 3600.0
MAX_GRACE_S = 90 * 86400.0

Change = Callable[[sa.Connection], KeyRecord]


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be. expires: seconds since 1970. models: None: all that the tenant may use."""

    tenant: str
    tier: str
    name: str = ""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] | None = None
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key just made, with its text: shown once."""

    record: KeyRecord
    key: str


def check(wanted: NewKey, tiers: Collection[str], now: float) -> None:
    """Raises ConfigError naming the first field that cannot be."""
    name_of(wanted.tenant, "tenant")
    if "\0" in wanted.name:
        raise ConfigError("not a name", where="name", found="a NUL", expected="text")
    if wanted.tier not in tiers:
        raise ConfigError(
            "there is no such tier", where="tier", found=wanted.tier[:80], expected=", ".join(tiers) or "one to exist"
        )
    unknown = [scope for scope in wanted.scopes if scope not in SCOPES]
    if unknown or not wanted.scopes:
        found = unknown[0][:80] if unknown else "none"
        raise ConfigError("there is no such scope", where="scopes", found=found, expected=", ".join(SCOPES))
    if wanted.expires is not None and wanted.expires <= now:
        raise ConfigError("lies in the past", where="expires", found=wanted.expires, expected=f"later than {now:.0f}")
    if wanted.models is not None and not wanted.models:
        raise ConfigError("names no model", where="models", fix="leave it out to allow all of the tenant's")


def name_of(tenant: str, where: str) -> str:
    """A tenant's name, if it can be one. Raises ConfigError."""
    if not 0 < len(tenant) <= NAME_CHARS or not tenant.isprintable() or tenant != tenant.strip():
        raise ConfigError(
            "not a name", where=where, found=repr(tenant)[:80], expected=f"1 to {NAME_CHARS} printable characters"
        )
    return tenant


def issue(wanted: NewKey, secret: bytes, *, now: float | None = None) -> tuple[Change, str]:
    """What makes the key, inside a transaction, and the key itself. `wanted` has been checked."""
    at = time.time() if now is None else now
    key = new_key()
    record = KeyRecord(
        new_key_id(), wanted.tenant, wanted.tier, wanted.name, wanted.scopes, wanted.models, at, wanted.expires
    )

    def add(connection: sa.Connection) -> KeyRecord:
        store.add_key(connection, record, digest_of(key, secret))
        return record

    return add, key


def rotate(key_id: str, secret: bytes, grace_s: float, *, now: float | None = None) -> tuple[Change, str]:
    """What gives the key a new text, and that text. The old one is good for `grace_s` more. Raises ConfigError."""
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise ConfigError("out of range", where="grace_s", found=grace_s, expected=f"0 to {MAX_GRACE_S:.0f} seconds")
    at = time.time() if now is None else now
    key = new_key()
    return lambda connection: store.rotate_key(connection, key_id, digest_of(key, secret), at, grace_s), key


def revoke(key_id: str, *, now: float | None = None) -> Change:
    """What ends the key."""
    at = time.time() if now is None else now
    return lambda connection: store.revoke_key(connection, key_id, at)


def listed(scopes: Sequence[str] | None) -> tuple[str, ...]:
    """Scopes as asked for, without repetition; the usual ones where none are."""
    return tuple(dict.fromkeys(scopes)) if scopes else DEFAULT_SCOPES
