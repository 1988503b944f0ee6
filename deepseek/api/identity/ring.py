"""Every good key in memory, so that a request is known in microseconds and an unknown key costs the database nothing.

The ring follows the database by its counter: a change made through this server is read back before its answer goes out;
one made elsewhere (another server, the command line) is seen at the next look, one second later at most. While the
database cannot be read the ring stays as it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deepseek.api.identity.caller import Caller
from deepseek.api.identity.keys import digest_of, is_well_formed
from deepseek.api.scopes import Scope
from deepseek.api.store import keys as store
from deepseek.api.store.database import Database
from deepseek.api.store.writer import Writer
from deepseek.api.tiers import Tiers
from deepseek.core.errors import StoreError

log = logging.getLogger("deepseek.api.identity")

POLL_S = 1.0
FLUSH_S = 30.0
FLUSH_KEYS = 500


@dataclass(frozen=True, slots=True)
class Held:
    """What one secret opens. caller: None where the key names a tier that this server does not have."""

    caller: Caller | None
    key_id: str
    tier: str
    expires: float | None


class KeyRing:
    """The keys of one database. Thread-safe. `start` follows the database from a thread; `close` stops it.

    secret: what keys are hashed under. clock: seconds since 1970. poll_s: between looks at the counter. flush_s: between
    writes of when keys were last used.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        secret: bytes,
        tiers: Tiers,
        *,
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._database, self._writer = database, writer
        self._secret, self._tiers, self._clock = secret, tiers, clock
        self._poll_s, self._flush_s = poll_s, flush_s
        self._by_digest: dict[str, Held] = {}
        self._digests: dict[str, frozenset[str]] = {}  # of each key
        self._used: dict[str, float] = {}
        self._seen = 0
        self.in_use = False
        """Whether a key was ever made, good or not."""
        self.suspended: frozenset[str] = frozenset()
        """Tenants whose callers are all refused."""
        self._one_at_a_time = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.load()

    @property
    def count(self) -> int:
        """Keys that are good now, or were when they were last read."""
        now = self._clock()
        good = (held.key_id for held in self._by_digest.copy().values() if held.expires is None or held.expires > now)
        return len(set(good))

    @property
    def version(self) -> int:
        """The counter of the database, as last seen."""
        return self._seen

    def find(self, key: str) -> Held | None:
        """What a key opens now; None for one that is mistyped, unknown, expired or revoked."""
        if not is_well_formed(key):
            return None
        # The digest is keyed, so how long a failed look-up takes says nothing about any key.
        held = self._by_digest.get(digest_of(key, self._secret))
        if held is None:
            return None
        now = self._clock()
        if held.expires is not None and held.expires <= now:
            return None
        self._used[held.key_id] = now
        return held

    def caller_of(self, key_id: str) -> Caller | None:
        """Who a key stands for now; None if no secret of it is good."""
        for digest in self._digests.get(key_id, ()):
            held = self._by_digest.get(digest)
            if held is not None and (held.expires is None or held.expires > self._clock()):
                return held.caller
        return None

    def load(self) -> None:
        """Read what changed. Blocks; never on the event loop. Raises StoreError."""
        with self._one_at_a_time:
            version = self._database.read_now(store.version)
            if version == self._seen:
                return
            # Read after the version: what changed in between is read again next time, never missed.
            changes = self._database.read_now(lambda connection: store.changes_since(connection, self._seen))
            for change in changes:
                self._apply(change)
            self.suspended = self._database.read_now(store.suspended_tenants)
            self.in_use = self.in_use or bool(changes)
            self._seen = version

    def flush(self) -> None:
        """Hand over when keys were last used, in pieces, without waiting for the writes."""
        used, self._used = self._used, {}
        items = sorted(used.items())
        for start in range(0, len(items), FLUSH_KEYS):
            piece = dict(items[start : start + FLUSH_KEYS])
            try:
                self._writer.submit(partial(store.mark_used, times=piece))
            except StoreError as error:
                log.warning("when keys were last used is not written: %s", error)

    def start(self) -> None:
        """Follow the database until `close`."""
        self._thread = threading.Thread(target=self._follow, name="deepseek-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following, and flush. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.flush()

    def _follow(self) -> None:
        reachable = True
        flush_at = time.monotonic() + self._flush_s
        while not self._stop.wait(self._poll_s):
            try:
                self.load()
                reachable = True
            except StoreError as error:
                if reachable:
                    log.error("keys cannot be read; changes to them are not seen: %s", error)
                reachable = False
            if time.monotonic() >= flush_at:
                self.flush()
                flush_at = time.monotonic() + self._flush_s

    def _apply(self, change: store.Change) -> None:
        record, now = change.record, self._clock()
        fresh: dict[str, Held] = {}
        if record.revoked is None:
            caller = self._caller_of(record)
            for digest, until in change.digests.items():
                ends = min((end for end in (until, record.expires) if end is not None), default=None)
                if ends is None or ends > now:
                    fresh[digest] = Held(caller, record.id, record.tier, ends)
        # The new ones first: there is no moment at which a good key is not known.
        self._by_digest.update(fresh)
        for digest in self._digests.pop(record.id, frozenset()) - fresh.keys():
            self._by_digest.pop(digest, None)
        if fresh:
            self._digests[record.id] = frozenset(fresh)

    def _caller_of(self, record: store.KeyRecord) -> Caller | None:
        tier = self._tiers.by_name.get(record.tier)
        if tier is None:
            log.error("key %s names the tier %r, which this server does not have", record.id, record.tier)
            return None
        return Caller(
            tenant=record.tenant,
            tier=tier,
            scopes=scopes_of(record.scopes),
            subject=record.id,
            key_id=record.id,
            models=None if record.models is None else frozenset(record.models),
        )


def scopes_of(names: tuple[str, ...]) -> frozenset[Scope]:
    """The scopes of these names; a name that this version does not know gives nothing."""
    return frozenset(scope for scope in Scope if scope.value in names and scope is not Scope.PUBLIC)
