"""Which servers live, and who settles what the dead ones left.

SQLite has one server, which holds the file's lock: whoever else left something there is dead. On PostgreSQL each server
says now and then that it lives, and what one that is silent for a minute had open is settled by whoever sees it first.
"""

from __future__ import annotations

import logging
import secrets

import sqlalchemy as sa

from deepseek.api.metering.counters import settle_abandoned
from deepseek.api.metering.tables import budgets, idempotency, leases, servers

log = logging.getLogger("deepseek.api")

HEARTBEAT_S = 10.0
SILENCE_S = 60.0
KEPT_BUDGETS_S = 40 * 86400.0
"""Budgets of periods that ended longer ago are forgotten; the ledger keeps what they counted."""

_SEEN = sa.text(
    "INSERT INTO servers (id, seen) VALUES (:id, :seen) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"
).bindparams(sa.bindparam("id", type_=sa.Text), sa.bindparam("seen", type_=sa.Double))


class Presence:
    """This process among the servers of one database. alone: no other server can have it open."""

    def __init__(self, *, alone: bool) -> None:
        self.id = secrets.token_hex(16)
        self.alone = alone

    def announce(self, connection: sa.Connection, now: float) -> None:
        connection.execute(_SEEN, {"id": self.id, "seen": now})

    def leave(self, connection: sa.Connection) -> None:
        connection.execute(servers.delete().where(servers.c.id == self.id))

    def bury_the_dead(self, connection: sa.Connection, now: float) -> int:
        """Settle what dead servers had open, and free their clients' keys, but for those of requests that were charged.

        How many leases there were.
        """
        lives = sa.select(servers.c.id).where(servers.c.seen >= now - SILENCE_S)
        held = sa.union(
            sa.select(leases.c.server), sa.select(idempotency.c.server).where(idempotency.c.state == "running")
        ).subquery()
        query = sa.select(held.c.server).where(held.c.server != self.id)
        if not self.alone:
            query = query.where(held.c.server.not_in(lives))
        dead = list(connection.scalars(query))
        settled = settle_abandoned(connection, dead) if dead else 0
        if dead:
            theirs = idempotency.c.server.in_(dead), idempotency.c.state == "running"
            connection.execute(idempotency.update().where(*theirs, idempotency.c.settled).values(state="lost"))
            connection.execute(idempotency.delete().where(*theirs))
        connection.execute(
            servers.delete().where(
                servers.c.id != self.id, sa.true() if self.alone else servers.c.seen < now - SILENCE_S
            )
        )
        if settled:
            log.warning("%d requests of servers that died are charged at the last slice of their leases", settled)
        return settled

    def sweep(self, connection: sa.Connection, now: float) -> None:
        """Delete what nobody asks for any more."""
        connection.execute(idempotency.delete().where(idempotency.c.expires < now, idempotency.c.state != "running"))
        connection.execute(
            budgets.delete().where(
                budgets.c.until < now - KEPT_BUDGETS_S, budgets.c.tokens_reserved == 0, budgets.c.money_reserved == 0
            )
        )
