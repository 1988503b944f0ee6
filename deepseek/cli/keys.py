"""`deepseek keys`: make, list, rotate and revoke API keys in the control database, also while a server uses it.

A key is printed once, when it is made, alone on standard output, so that it can be piped to where it is kept.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console

from deepseek.api.config import PlatformConfig, load
from deepseek.api.identity import administration
from deepseek.api.identity.administration import NewKey
from deepseek.api.identity.secret import secret_of
from deepseek.api.platform import default_database
from deepseek.api.store import keys as store
from deepseek.api.store.database import Database
from deepseek.api.store.keys import KeyRecord
from deepseek.cli.screen import print_line
from deepseek.core.errors import ConfigError

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the keys are. config: of the platform; database: instead of the one it names."""

    config: Path | None = None
    database: str | None = None

    @contextmanager
    def open(self) -> Iterator[tuple[Database, PlatformConfig]]:
        """Raises ConfigError or StoreError."""
        config = PlatformConfig() if self.config is None else load(self.config)
        database = Database.open(self.database or config.database or default_database())
        try:
            yield database, config
        finally:
            database.close()


def create(
    place: Place,
    tenant: str,
    tier: str | None,
    *,
    name: str = "",
    scopes: Sequence[str] = (),
    models: Sequence[str] = (),
    expires: str | None = None,
) -> None:
    """Raises ConfigError for what cannot be."""
    now = time.time()
    with place.open() as (database, config):
        section = config.tenants.get(tenant)
        tier = tier or (section.tier if section is not None else None)
        if tier is None:
            raise ConfigError("is missing", where="--tier", fix="name one, or give the tenant one in the configuration")
        wanted = NewKey(
            tenant,
            tier,
            name,
            administration.listed(scopes),
            tuple(dict.fromkeys(models)) or None,
            None if expires is None else moment_of(expires, now),
        )
        administration.check(wanted, config.tiers_of(str(place.config)).by_name, now)
        add, key = administration.issue(wanted, secret_of(database), now=now)
        record = database.write_now(add)
        _show_new(record, key, f"made in {database}")


def rotate(place: Place, key_id: str, grace: str) -> None:
    """grace: how long the old text is still good."""
    with place.open() as (database, _):
        grace_s = duration_of(grace, "--grace")
        change, key = administration.rotate(key_id, secret_of(database), grace_s)
        record = database.write_now(change)
        _show_new(record, key, f"rotated; the old one is good for {grace} more")


def revoke(place: Place, key_id: str) -> None:
    """For good; a running server follows within a second."""
    with place.open() as (database, _):
        record = database.write_now(administration.revoke(key_id))
    print_line(Console(stderr=True), f"{record.id} of {record.tenant} is revoked")


def show(place: Place, tenant: str | None, *, json_output: bool) -> None:
    """All keys, or one tenant's: a line each, or a JSON object each."""
    screen, now, after = Console(), time.time(), None
    with place.open() as (database, _):
        while page := database.read_now(_page(tenant, after)):
            for record in page:
                print_line(screen, json.dumps(asdict(record)) if json_output else _line(record, now))
            after = page[-1].id


def moment_of(text: str, now: float) -> float:
    """A date, a time (ISO 8601; UTC unless it says otherwise) or a while from now (90d). Raises ConfigError."""
    if re.fullmatch(r"\d+[smhdw]", text):
        return now + duration_of(text, "--expires")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "not a time", where="--expires", found=text[:80], expected="2027-01-31, 2027-01-31T12:00Z, or 90d"
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def duration_of(text: str, where: str) -> float:
    """Seconds of 30s, 15m, 12h, 90d or 4w. Raises ConfigError."""
    if not re.fullmatch(r"\d{1,9}[smhdw]", text):
        raise ConfigError("not a while", where=where, found=text[:80], expected="30s, 15m, 12h, 90d or 4w")
    return float(text[:-1]) * UNITS_S[text[-1]]


def _page(tenant: str | None, after: str | None) -> Callable[[sa.Connection], list[KeyRecord]]:
    return lambda connection: store.list_keys(connection, tenant=tenant, limit=500, after=after)


def _show_new(record: KeyRecord, key: str, what: str) -> None:
    notes = Console(stderr=True)
    print_line(notes, f"{record.id} of {record.tenant}, tier {record.tier}, {', '.join(record.scopes)}: {what}")
    print_line(notes, "This key is shown this once:", "dim")
    print(key)


def _line(record: KeyRecord, now: float) -> str:
    parts = [record.id, record.tenant, record.tier, "+".join(record.scopes), _state(record, now)]
    used = f"used {_date(record.last_used)}" if record.last_used is not None else "never used"
    models = f"only {', '.join(record.models)}" if record.models is not None else ""
    return "  ".join(part for part in (*parts, used, models, record.name) if part)


def _state(record: KeyRecord, now: float) -> str:
    if record.revoked is not None:
        return f"revoked {_date(record.revoked)}"
    if record.expires is None:
        return "good"
    return f"{'expired' if record.expires <= now else 'good until'} {_date(record.expires)}"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
