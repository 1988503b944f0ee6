"""Tables of what is kept for tenants. The tenant is the first part of every key, so that no id alone finds anything."""

from __future__ import annotations

import sqlalchemy as sa

from deepseek.api.store.schema import metadata

TENANT_CHARS = 64
ID_CHARS = 64

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("tenant", sa.String(TENANT_CHARS), nullable=False),
    sa.Column("id", sa.String(ID_CHARS), nullable=False),
    # The answer that this one goes on from.
    sa.Column("previous", sa.String(ID_CHARS)),
    sa.Column("created", sa.Double, nullable=False),
    # Bytes of the two texts together; a tenant's are bounded.
    sa.Column("size", sa.BigInteger, nullable=False),
    # JSON as it was answered, and the items it was asked with.
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("items", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant", "id"),
    # With the size, so that what a tenant holds is counted in the index alone.
    sa.Index("ix_answers_tenant_created", "tenant", "created", "size"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("tenant", sa.String(TENANT_CHARS), nullable=False),
    # Also the name on disk: the client's own name is only ever shown.
    sa.Column("id", sa.String(ID_CHARS), nullable=False),
    sa.Column("name", sa.String(512), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.PrimaryKeyConstraint("tenant", "id"),
    sa.Index("ix_files_tenant_created", "tenant", "created"),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("tenant", sa.String(TENANT_CHARS), nullable=False),
    sa.Column("id", sa.String(ID_CHARS), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("input_file", sa.String(ID_CHARS), nullable=False),
    # JSON of `deepseek.api.kept.batches.Batch`: everything else.
    sa.Column("document", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant", "id"),
    sa.Index("ix_batches_tenant_created", "tenant", "created"),
    sa.Index("ix_batches_status", "status"),
)
