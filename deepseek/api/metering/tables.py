"""Tables of metering: the ledger, budgets, leases, the servers that hold them, and answers kept for repeated requests."""

from __future__ import annotations

import sqlalchemy as sa

from deepseek.api.store.schema import metadata

usage = sa.Table(
    "usage",
    metadata,
    # Append-only: triggers refuse UPDATE and DELETE.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    # The id the client saw in its answer.
    sa.Column("request_id", sa.String(128), nullable=False),
    # When the request was admitted, and its day in UTC, counted from 1970: it is charged to the period it began in.
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("tenant", sa.String(64), nullable=False),
    # What budgets of scope "key" count by: a key's public id, or a token's subject.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    # Of the prompt's, those found in the prefix cache.
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    # Billionths of the operator's currency.
    sa.Column("cost", sa.BigInteger, nullable=False),
    # Why each choice ended, joined by commas; "crashed" where the server died.
    sa.Column("reasons", sa.Text, nullable=False),
    # From admission to settlement; NULL where the server died.
    sa.Column("seconds", sa.Double),
    # What work that may be done twice is charged under, once (`deepseek.api.metering.once`).
    sa.Column("once", sa.String(64)),
    sa.Index("ix_usage_once", "once", unique=True),
    sa.Index("ix_usage_time", "time"),
    # A new budget sums what its holder has used in its period: out of these alone, while everybody's writes wait.
    sa.Index("ix_usage_tenant_time", "tenant", "time", "prompt_tokens", "completion_tokens", "cost"),
    sa.Index("ix_usage_subject_time", "tenant", "subject", "time", "prompt_tokens", "completion_tokens", "cost"),
    sqlite_autoincrement=True,
)

budgets = sa.Table(
    "budgets",
    metadata,
    # Scope, tenant, holder, period and its beginning: one row for each holder and period.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tokens_spent", sa.BigInteger, nullable=False),
    sa.Column("tokens_reserved", sa.BigInteger, nullable=False),
    sa.Column("money_spent", sa.BigInteger, nullable=False),
    sa.Column("money_reserved", sa.BigInteger, nullable=False),
    # When the period ends; NULL where it never does.
    sa.Column("until", sa.Double),
    # Giving back what was given back already must fail, not make room.
    sa.CheckConstraint("tokens_reserved >= 0 AND money_reserved >= 0", name="reserved"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("server", sa.String(32), nullable=False, index=True),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("opened", sa.Double, nullable=False),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    # Set aside on every one of its budgets, prompt included; money: what they cost at most.
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("money", sa.BigInteger, nullable=False),
    # Ids, a JSON list in ascending order.
    sa.Column("budgets", sa.JSON, nullable=False),
    # Id and token of the request's row in idempotency: settling this after a crash must not free that key.
    sa.Column("claim_id", sa.String(64)),
    sa.Column("claim_token", sa.String(32)),
    # As in usage: what is done again after a crash is not charged for the time before it.
    sa.Column("once", sa.String(64)),
)

servers = sa.Table(
    "servers",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    # Renewed while the process lives: what one that is silent for long had open is settled by the others.
    sa.Column("seen", sa.Double, nullable=False),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    # SHA-256 of tenant, subject, route and Idempotency-Key.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    # SHA-256 of the request that the key was first used for.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    # Drawn for that use: who lost the row to a later one no longer finds it.
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("server", sa.String(32), nullable=False, index=True),
    # "running", "kept", or "lost": charged, but its answer was not kept.
    sa.Column("state", sa.String(8), nullable=False),
    # Whether its usage is in the ledger.
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("status", sa.Integer),
    # A JSON list of name and value pairs.
    sa.Column("headers", sa.JSON(none_as_null=True)),
    sa.Column("body", sa.LargeBinary),
    # Bytes of the body; a tenant's are bounded.
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Index("ix_idempotency_expires", "expires"),
    sa.Index("ix_idempotency_tenant_expires", "tenant", "expires", "size"),
)
