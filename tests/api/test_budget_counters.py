"""Budgets in the database, whatever happens in whatever order: no cap is ever passed, the ledger is what was spent, and
nothing stays set aside once all is over."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from metering_support import NOON, Books, budget, caller, opened

from deepseek.api.identity.caller import Caller
from deepseek.api.metering import counters
from deepseek.api.metering.budgets import NO_CAP, Budget, Budgets
from deepseek.api.metering.counters import Grant, Refusal, Terms
from deepseek.api.metering.prices import FREE, Price
from deepseek.api.metering.servers import SILENCE_S, Presence
from deepseek.api.metering.tables import budgets as budget_table
from deepseek.api.metering.tables import leases, usage
from deepseek.api.store.database import Database
from deepseek.core.engine import Usage

CONFIGS = [
    budget("key", "day", tokens=400),
    budget("key", "total", name="k2", tokens=900, money="0.003"),
    budget("tenant", "month", tokens=1000, money="0.004"),
]
PRICES = (FREE, Price(2_000_000_000, 1_000_000_000, 7_000_000_000), Price(3_333_333, 1, 0), Price(0, 0, 123_456_789))
CALLERS = [caller(tenant, key) for tenant in ("a", "b") for key in ("k1", "k2")]


class OpenLease:
    def __init__(self, terms: Terms, row: counters.Row, grant: Grant, server: Presence) -> None:
        self.terms, self.row, self.server = terms, row, server
        self.granted, self.final, self.used = grant.granted, grant.final, 0


class Bookkeeping(RuleBasedStateMachine):
    """Two servers on one database that open, renew, settle, release and die."""

    def __init__(self) -> None:
        super().__init__()
        # The order of commits is under test, not the disk: in memory, where there is such a place.
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.database = Database.open(f"{self.directory.name}/control.db")
        self.budgets = Budgets(CONFIGS)
        self.now = NOON
        self.count = 0
        self.open: list[OpenLease] = []
        self.servers = [Presence(alone=False), Presence(alone=False)]
        self.caps: dict[str, Budget] = {}
        for server in self.servers:
            self.database.write_now(lambda connection, server=server: server.announce(connection, self.now))

    def write(self, work: Any) -> Any:
        return self.database.write_now(work)

    @rule(
        who=st.sampled_from(CALLERS),
        prompt=st.integers(1, 120),
        most=st.integers(0, 300),
        slice_tokens=st.sampled_from((1, 16, 64)),
        price=st.sampled_from(PRICES),
        place=st.integers(0, 1),
    )
    def open_one(self, who: Caller, prompt: int, most: int, slice_tokens: int, price: Price, place: int) -> None:
        self.count += 1
        server = self.servers[place]
        terms = Terms(f"l{self.count}", self.budgets.of(who, self.now), price, prompt, most, slice_tokens)
        row = {
            "id": terms.id,
            "server": server.id,
            "request_id": f"r{self.count}",
            "opened": self.now,
            "tenant": who.tenant,
            "subject": who.subject,
            "key_id": who.key_id,
            "model": "m",
            "route": "/v1/generate",
            "prompt_tokens": prompt,
        }
        self.caps |= {each.id: each for each in terms.budgets}

        def work(connection: sa.Connection) -> Grant | Refusal:
            for each in terms.budgets:
                counters.begin(connection, each)
            return counters.open_lease(connection, terms, row)

        room = self._room(terms)
        found = self.write(work)
        if isinstance(found, Refusal):
            assert room < min(1, most), "refused though there was room"
            return
        assert found.granted == min(most, slice_tokens, room), "not as much as there was"
        self.open.append(OpenLease(terms, row, found, server))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.open))
        grant = self.write(lambda connection: counters.renew_lease(connection, lease.terms))
        assert lease.granted <= grant.granted <= lease.terms.most
        if grant.granted < min(lease.terms.most, lease.granted + lease.terms.slice_tokens):
            assert grant.final
        lease.granted, lease.final = grant.granted, grant.final

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def generate(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.open))
        lease.used = data.draw(st.integers(lease.used, lease.granted))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), twice=st.booleans())
    def settle(self, data: st.DataObject, twice: bool) -> None:
        lease = data.draw(st.sampled_from(self.open))
        self.open.remove(lease)
        cached = data.draw(st.integers(0, lease.terms.prompt_tokens))
        used = Usage(lease.terms.prompt_tokens, lease.used, cached)
        row = counters.usage_row(lease.row, used, lease.terms.price, "stop", 0.1)
        assert self.write(lambda connection: counters.settle_lease(connection, lease.terms.id, row))
        if twice:
            assert not self.write(lambda connection: counters.settle_lease(connection, lease.terms.id, row))
            late = self.write(lambda connection: counters.renew_lease(connection, lease.terms))
            assert late == Grant(0, True)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.open))
        self.open.remove(lease)
        assert self.write(lambda connection: counters.release_lease(connection, lease.terms.id))

    @rule(place=st.integers(0, 1))
    def die(self, place: int) -> None:
        """One server falls silent; the other buries it; a new one takes its place."""
        dead, survivor = self.servers[place], self.servers[1 - place]
        theirs = [lease for lease in self.open if lease.server is dead]
        self.now += SILENCE_S + 1
        self.write(lambda connection: survivor.announce(connection, self.now))
        assert self.write(lambda connection: survivor.bury_the_dead(connection, self.now)) == len(theirs)
        for lease in theirs:
            self.open.remove(lease)
            (row,) = [row for row in self.rows(usage) if row.request_id == lease.row["request_id"]]
            assert (row.completion_tokens, row.reasons) == (lease.granted, "crashed")
        fresh = self.servers[place] = Presence(alone=False)
        self.write(lambda connection: fresh.announce(connection, self.now))

    @rule(hours=st.sampled_from((1, 13, 24 * 8)))
    def wait(self, hours: int) -> None:
        self.now += hours * 3600
        for server in self.servers:
            self.write(lambda connection, server=server: server.announce(connection, self.now))

    @invariant()
    def the_books_are_right(self) -> None:
        rows = {row.id: row for row in self.rows(budget_table)}
        held = {row.id: row for row in self.rows(leases)}
        assert {lease.terms.id for lease in self.open} == set(held)
        for lease in self.open:
            row = held[lease.terms.id]
            assert row.tokens == lease.terms.prompt_tokens + lease.granted
            assert row.money == lease.terms.price.most(lease.terms.prompt_tokens, lease.granted)
        ledger = self.rows(usage)
        for budget_id, row in rows.items():
            cap = self.caps[budget_id]
            assert row.tokens_spent + row.tokens_reserved <= cap.tokens
            assert row.money_spent + row.money_reserved <= cap.money
            counted = [
                each
                for each in ledger
                if each.tenant == cap.tenant
                and (cap.scope == "tenant" or each.subject == cap.holder)
                and cap.since <= each.time < (cap.until or NO_CAP)
            ]
            assert row.tokens_spent == sum(each.prompt_tokens + each.completion_tokens for each in counted)
            assert row.money_spent == sum(each.cost for each in counted)
            those = [each for each in held.values() if budget_id in each.budgets]
            assert row.tokens_reserved == sum(each.tokens for each in those)
            assert row.money_reserved == sum(each.money for each in those)

    def teardown(self) -> None:
        for lease in self.open:
            self.write(lambda connection, lease=lease: counters.release_lease(connection, lease.terms.id))
        assert all((row.tokens_reserved, row.money_reserved) == (0, 0) for row in self.rows(budget_table))
        self.database.close()
        self.directory.cleanup()

    def rows(self, table: sa.Table) -> list[Any]:
        return list(self.database.read_now(lambda connection: connection.execute(sa.select(table)).all()))

    def _room(self, terms: Terms) -> int:
        """Completion tokens that every budget still has room for, found the slow way; negative if not for the prompt."""
        rows = {row.id: row for row in self.rows(budget_table)}
        room = terms.most
        for each in terms.budgets:
            row = rows.get(each.id)
            tokens = each.tokens - (row.tokens_spent + row.tokens_reserved if row else 0)
            money = each.money - (row.money_spent + row.money_reserved if row else 0)
            if tokens < terms.prompt_tokens or money < terms.price.most(terms.prompt_tokens, 0):
                return -1
            room = min(room, tokens - terms.prompt_tokens)
            while room and terms.price.most(terms.prompt_tokens, room) > money:
                room -= 1
        return room


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


def test_a_budget_set_in_the_middle_of_a_month_counts_what_the_ledger_has(books: Books) -> None:
    def used(tenant: str, key: str, at: float) -> counters.Row:
        row = {
            "request_id": "r",
            "opened": at,
            "tenant": tenant,
            "subject": key,
            "key_id": key,
            "model": "m",
            "route": "/",
        }
        return counters.usage_row(row, Usage(10, 5), Price(0, 0, 10**6), "stop", 0.1)

    rows = [
        used("acme", "k1", NOON),
        used("acme", "k2", NOON),
        used("acme", "k1", NOON - 86400 * 40),
        used("b", "k1", NOON),
    ]
    books.database.write_now(lambda connection: counters.record(connection, rows))
    found = Budgets([budget("key", "month", tokens=99), budget("tenant", "month", tokens=99)]).of(caller(), NOON)
    for each in found:
        books.database.write_now(lambda connection, each=each: counters.begin(connection, each))
    assert {row.id.split("/")[0]: (row.tokens_spent, row.money_spent) for row in books.rows(budget_table)} == {
        "key": (15, 5),
        "tenant": (30, 10),
    }


@pytest.mark.parametrize("scope", ["key", "tenant"])
def test_only_a_new_budget_reads_the_ledger_and_no_more_of_it_than_an_index_has(books: Books, scope: str) -> None:
    said: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        if "FROM usage" in statement:
            said.append((statement, values))

    sa.event.listen(books.database.engine, "before_cursor_execute", listen)
    (found,) = Budgets([budget(scope, "total", tokens=99)]).of(caller(), NOON)
    for _ in range(2):
        books.database.write_now(lambda connection: counters.begin(connection, found))
    ((statement, values),) = said
    plan = books.database.read_now(
        lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    )
    wanted = {"key": "tenant=? AND subject=? AND time>?", "tenant": "tenant=? AND time>?"}[scope]
    assert f"COVERING INDEX ix_usage_{'subject' if scope == 'key' else 'tenant'}_time ({wanted})" in str(plan)


def test_giving_back_twice_is_refused_by_the_database(books: Books) -> None:
    (found,) = Budgets([budget(tokens=99)]).of(caller(), NOON)
    books.database.write_now(lambda connection: counters.begin(connection, found))
    with pytest.raises(sa.exc.IntegrityError, match="reserved"):
        books.database.write_now(lambda connection: counters._give_back(connection, [found], 1, 0))


@pytest.mark.parametrize("statement", ["UPDATE usage SET completion_tokens = 0", "DELETE FROM usage"])
def test_the_ledger_cannot_be_changed_or_cut(books: Books, statement: str) -> None:
    row = {"request_id": "r", "opened": NOON, "tenant": "a", "subject": "k", "key_id": None, "model": "m", "route": "/"}
    written = counters.usage_row(row, Usage(1, 1), FREE, "stop", 0.1)
    books.database.write_now(lambda connection: counters.record(connection, [written]))
    with pytest.raises(Exception, match="append-only"):
        books.database.write_now(lambda connection: connection.exec_driver_sql(statement))
    assert len(books.ledger) == 1
