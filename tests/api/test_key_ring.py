"""Keys in memory and in the database: known, expired, rotated, revoked, suspended; here, and on another server."""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from identity_support import SECRET, Keys, keys_beside, keys_in
from postgres_support import empty, installed, postgres

from deepseek.api.identity import administration
from deepseek.api.identity.keys import new_key
from deepseek.api.identity.ring import POLL_S
from deepseek.api.scopes import Scope
from deepseek.api.store import keys as store
from deepseek.api.store.keys import UnknownName
from deepseek.api.tiers import PROFESSIONAL
from deepseek.core.errors import ConfigError


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


in_postgres = pytest.mark.skipif(not installed(), reason="no PostgreSQL on this machine")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=in_postgres)])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keys]:
    if request.param == "sqlite":
        url = str(tmp_path / "control.db")
    else:
        url = request.getfixturevalue("server")
        empty(url)
    with keys_in(url) as found:
        yield found


def test_a_key_opens_what_it_was_made_for(keys: Keys) -> None:
    record, key = keys.make("acme", "professional", scopes=("read", "operate"), models=("m",))
    assert keys.ring.find(key) is None
    keys.ring.load()
    held = keys.ring.find(key)
    assert held is not None and held.caller is not None
    assert (held.caller.tenant, held.caller.tier, held.caller.key_id) == ("acme", PROFESSIONAL, record.id)
    assert held.caller.scopes == {Scope.READ, Scope.OPERATE} and held.caller.models == {"m"}
    assert held.caller.subject == record.id


def test_an_unknown_key_is_refused_without_asking_the_database(keys: Keys) -> None:
    keys.make()
    keys.ring.load()
    statements: list[str] = []
    sa.event.listen(
        keys.database.engine, "before_cursor_execute", lambda c, cursor, text, *rest: statements.append(text)
    )
    assert keys.ring.find(new_key()) is None
    assert keys.ring.find("dsk_short") is None
    assert statements == []


def test_the_key_is_nowhere_in_the_database(keys: Keys) -> None:
    record, key = keys.make(name="for the press")
    tables = ("keys", "secrets", "tenants", "facts", "counters")
    rows = keys.database.read_now(
        lambda connection: [
            str(row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}")
        ]
    )
    assert record.id in "".join(rows)
    for length in range(8, len(key)):
        assert key[4 : 4 + length] not in "".join(rows)


def test_a_key_expires_at_its_second(keys: Keys) -> None:
    _, key = keys.make(expires=keys.clock.now + 60)
    keys.ring.load()
    keys.clock.now += 59.9
    assert keys.ring.find(key) is not None
    keys.clock.now += 0.1
    assert keys.ring.find(key) is None
    assert keys.ring.count == 0


def test_a_rotated_key_has_its_old_text_for_the_grace_period(keys: Keys) -> None:
    record, old = keys.make(models=("m",))
    change, new = administration.rotate(record.id, SECRET, 60, now=keys.clock.now)
    keys.database.write_now(change)
    keys.ring.load()
    both = [keys.ring.find(key) for key in (old, new)]
    assert all(held is not None and held.key_id == record.id for held in both)
    keys.clock.now += 60
    assert keys.ring.find(old) is None and keys.ring.find(new) is not None


def test_rotating_again_never_lengthens_the_life_of_an_old_text(keys: Keys) -> None:
    record, first = keys.make()
    keys.database.write_now(administration.rotate(record.id, SECRET, 10, now=keys.clock.now)[0])
    keys.database.write_now(administration.rotate(record.id, SECRET, 1000, now=keys.clock.now)[0])
    keys.ring.load()
    assert keys.ring.find(first) is not None
    keys.clock.now += 10
    assert keys.ring.find(first) is None


def test_a_revoked_key_is_known_no_more(keys: Keys) -> None:
    record, key = keys.make()
    other, kept = keys.make()
    keys.ring.load()
    keys.database.write_now(administration.revoke(record.id, now=keys.clock.now))
    keys.ring.load()
    assert keys.ring.find(key) is None and keys.ring.find(kept) is not None
    again = keys.database.write_now(administration.revoke(record.id, now=keys.clock.now + 5))
    assert again.revoked == keys.clock.now
    with pytest.raises(ConfigError, match="found revoked"):
        keys.database.write_now(administration.rotate(record.id, SECRET, 10)[0])
    assert other.id != record.id


def test_another_server_follows_within_its_next_look(keys: Keys) -> None:
    record, key = keys.make()
    other = keys.another_ring(poll_s=0.005)
    other.start()
    assert other.find(key) is not None
    keys.database.write_now(administration.revoke(record.id, now=keys.clock.now))
    asking = threading.Thread(target=lambda: deque(iter(lambda: other.find(key), None), maxlen=0), daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()
    other.close()


def test_the_default_look_is_every_second(keys: Keys) -> None:
    assert POLL_S <= 1.0


def test_a_suspended_tenant_is_known_to_be(keys: Keys) -> None:
    keys.make("acme")
    keys.database.write_now(lambda connection: store.suspend_tenant(connection, "acme", 5.0))
    keys.ring.load()
    assert keys.ring.suspended == {"acme"}
    keys.database.write_now(lambda connection: store.suspend_tenant(connection, "acme", None))
    keys.ring.load()
    assert keys.ring.suspended == frozenset()
    with pytest.raises(UnknownName):
        keys.database.write_now(lambda connection: store.suspend_tenant(connection, "nobody", 5.0))


def test_a_tenant_alone_does_not_make_keys_required(keys: Keys) -> None:
    keys.database.write_now(lambda connection: store.add_tenant(connection, "acme", 1.0))
    keys.database.write_now(lambda connection: store.suspend_tenant(connection, "acme", 5.0))
    keys.ring.load()
    assert not keys.ring.in_use
    record, _ = keys.make()
    keys.database.write_now(administration.revoke(record.id))
    keys.ring.load()
    assert keys.ring.in_use and keys.ring.count == 0
    assert keys.another_ring().in_use


def test_when_a_key_was_last_used_is_written_later_and_never_turned_back(keys: Keys) -> None:
    record, key = keys.make()
    keys.ring.load()
    before = keys.ring.version

    def last() -> float | None:
        keys.writer.submit(lambda connection: None).result(30)
        return keys.database.read_now(lambda connection: store.get_key(connection, record.id).last_used)

    keys.ring.find(key)
    assert last() is None
    keys.ring.flush()
    assert last() == keys.clock.now
    keys.clock.now -= 100
    keys.ring.find(key)
    keys.ring.flush()
    assert last() == keys.clock.now + 100
    keys.ring.load()
    assert keys.ring.version == before


def test_a_key_of_a_tier_that_is_not_configured_opens_nothing(keys: Keys) -> None:
    _, key = keys.make(tier="platinum")
    keys.ring.load()
    held = keys.ring.find(key)
    assert held is not None and held.caller is None and held.tier == "platinum"


def test_keys_are_listed_in_the_order_they_were_made_a_page_at_a_time(keys: Keys) -> None:
    made = []
    for index in range(7):
        made.append(keys.make("acme" if index % 2 else "other")[0].id)
        keys.clock.now += index % 3  # some at the same time
    by_time = keys.database.read_now(store.list_keys)
    assert {record.id for record in by_time} == set(made)
    assert [record.created for record in by_time] == sorted(record.created for record in by_time)
    seen: list[str] = []
    while page := keys.database.read_now(partial(store.list_keys, limit=3, after=seen[-1] if seen else None)):
        seen += [record.id for record in page]
    assert seen == [record.id for record in by_time]
    own = keys.database.read_now(lambda connection: store.list_keys(connection, tenant="acme"))
    assert {record.id for record in own} == set(made[1::2])
    with pytest.raises(UnknownName):
        keys.database.read_now(lambda connection: store.list_keys(connection, after="key_nobody"))


class RingFollowsDatabase(RuleBasedStateMachine):
    """However keys are changed, a ring that has looked knows exactly those that are good."""

    made = Bundle("made")

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.context = keys_beside(Path(self.directory.name))
        self.keys = self.context.__enter__()
        self.good: dict[str, tuple[str, float]] = {}  # key -> id, end
        self.revoked: set[str] = set()
        self.ends: dict[str, float] = {}

    @rule(target=made, life=st.sampled_from([float("inf"), 30.0]))
    def make(self, life: float) -> str:
        end = self.keys.clock.now + life
        record, key = self.keys.make(expires=None if life == float("inf") else end)
        self.good[key] = (record.id, end)
        self.ends[record.id] = end
        return record.id

    @rule(key_id=made, grace=st.sampled_from([0.0, 20.0, 50.0]))
    def rotate(self, key_id: str, grace: float) -> None:
        now = self.keys.clock.now
        change, new = administration.rotate(key_id, SECRET, grace, now=now)
        if key_id in self.revoked or self.ends[key_id] <= now:
            with pytest.raises(ConfigError):
                self.keys.database.write_now(change)
            return
        self.keys.database.write_now(change)
        for key, (owner, end) in self.good.items():
            if owner == key_id:
                self.good[key] = (owner, min(end, now + grace))
        self.good[new] = (key_id, self.ends[key_id])

    @rule(key_id=made)
    def revoke(self, key_id: str) -> None:
        self.keys.database.write_now(administration.revoke(key_id, now=self.keys.clock.now))
        self.revoked.add(key_id)

    @rule(seconds=st.sampled_from([10.0, 25.0]))
    def wait(self, seconds: float) -> None:
        self.keys.clock.now += seconds

    @rule()
    def look(self) -> None:
        self.keys.ring.load()
        fresh = self.keys.another_ring()
        for key, (owner, end) in self.good.items():
            expected = owner if owner not in self.revoked and end > self.keys.clock.now else None
            for ring in (self.keys.ring, fresh):
                held = ring.find(key)
                assert (held.key_id if held is not None else None) == expected

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.directory.cleanup()


TestRingFollowsDatabase = RingFollowsDatabase.TestCase
TestRingFollowsDatabase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
