"""What is kept for tenants between requests: answers, files, batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_answers"),
    )
    op.create_index("ix_answers_tenant_created", "answers", ["tenant", "created", "size"])
    op.create_table(
        "files",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_files"),
    )
    op.create_index("ix_files_tenant_created", "files", ["tenant", "created"])
    op.create_table(
        "batches",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("input_file", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_batches"),
    )
    op.create_index("ix_batches_tenant_created", "batches", ["tenant", "created"])
    op.create_index("ix_batches_status", "batches", ["status"])
