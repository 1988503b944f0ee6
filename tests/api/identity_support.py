"""What the tests of identity share: a database with keys, a clock that is set by hand, and a server that asks for keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_support import CONTEXT, MODELS, ByteCodec, quick

from deepseek.api import ServerState
from deepseek.api.admin import KeyAdmin
from deepseek.api.identity import administration
from deepseek.api.identity.administration import NewKey
from deepseek.api.identity.identifier import KeyIdentifier
from deepseek.api.identity.ring import KeyRing
from deepseek.api.identity.tokens import TokenVerifier
from deepseek.api.store.database import Database
from deepseek.api.store.keys import KeyRecord
from deepseek.api.store.writer import Writer
from deepseek.api.tiers import Tiers

SECRET = b"a secret of the tests, and long enough"


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Keys:
    """A database, and one server's view of its keys."""

    database: Database
    writer: Writer
    clock: Clock
    ring: KeyRing

    def make(self, tenant: str = "acme", tier: str = "basic", **fields: Any) -> tuple[KeyRecord, str]:
        """A key, as another process would make it: the ring has not seen it."""
        add, key = administration.issue(NewKey(tenant, tier, **fields), SECRET, now=self.clock.now)
        return self.database.write_now(add), key

    def another_ring(self, **options: Any) -> KeyRing:
        return KeyRing(self.database, self.writer, SECRET, Tiers(), clock=self.clock, **options)


@contextmanager
def keys_in(url: str, **options: Any) -> Iterator[Keys]:
    """options: of the ring."""
    database, clock = Database.open(url), Clock()
    writer = Writer(database)
    ring = KeyRing(database, writer, SECRET, Tiers(), clock=clock, **options)
    try:
        yield Keys(database, writer, clock, ring)
    finally:
        ring.close()
        writer.close()
        database.close()


@contextmanager
def keys_beside(directory: Path) -> Iterator[Keys]:
    with keys_in(str(directory / "control.db")) as keys:
        yield keys


def asking_state(keys: Keys, *, tokens: TokenVerifier | None = None, open_until_keyed: bool = False) -> ServerState:
    """A server that asks for keys, with an admin API over the same database."""
    identifier = KeyIdentifier(keys.ring, tokens, open_until_keyed=open_until_keyed)
    admin = KeyAdmin(keys.database, keys.writer, keys.ring, SECRET, tuple(Tiers().by_name), keys.clock)
    return ServerState(quick(), ByteCodec(), MODELS, CONTEXT, identifier=identifier, admin=admin)
