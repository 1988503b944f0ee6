"""Charges that are known by an id, so that work done twice is charged once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("usage", sa.Column("once", sa.String(64)))
    op.create_index("ix_usage_once", "usage", ["once"], unique=True)
    op.add_column("leases", sa.Column("once", sa.String(64)))
