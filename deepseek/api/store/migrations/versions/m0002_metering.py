"""Metering: the append-only ledger, budgets, leases and their servers, and answers kept for repeated requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_usage"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_usage_time", "usage", ["time"])
    counted = ["time", "prompt_tokens", "completion_tokens", "cost"]
    op.create_index("ix_usage_tenant_time", "usage", ["tenant", *counted])
    op.create_index("ix_usage_subject_time", "usage", ["tenant", "subject", *counted])
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tokens_spent", sa.BigInteger, nullable=False),
        sa.Column("tokens_reserved", sa.BigInteger, nullable=False),
        sa.Column("money_spent", sa.BigInteger, nullable=False),
        sa.Column("money_reserved", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        sa.CheckConstraint("tokens_reserved >= 0 AND money_reserved >= 0", name="ck_budgets_reserved"),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("server", sa.String(32), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("opened", sa.Double, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("money", sa.BigInteger, nullable=False),
        sa.Column("budgets", sa.JSON, nullable=False),
        sa.Column("claim_id", sa.String(64)),
        sa.Column("claim_token", sa.String(32)),
        sa.PrimaryKeyConstraint("id", name="pk_leases"),
    )
    op.create_index("ix_leases_server", "leases", ["server"])
    op.create_table(
        "servers",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_servers"),
    )
    op.create_table(
        "idempotency",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("server", sa.String(32), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.LargeBinary),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_server", "idempotency", ["server"])
    op.create_index("ix_idempotency_expires", "idempotency", ["expires"])
    op.create_index("ix_idempotency_tenant_expires", "idempotency", ["tenant", "expires", "size"])
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER usage_refuses_{event.lower()} BEFORE {event} ON usage "
                "BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION refuse_change_of_usage() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'usage is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER usage_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON usage "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_usage()"
        )
