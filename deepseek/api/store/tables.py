"""Tables of identity: tenants, keys, the secrets of keys, and what the store remembers about itself."""

from __future__ import annotations

import sqlalchemy as sa

from deepseek.api.store.schema import metadata

NAME_CHARS = 64

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(NAME_CHARS), primary_key=True),
    sa.Column("created", sa.Double, nullable=False),
    # Set while the tenant may not use the server: every caller of it is refused.
    sa.Column("suspended", sa.Double),
)

keys = sa.Table(
    "keys",
    metadata,
    # Random and public: shown in lists, logs and the ledger. No part of a secret.
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.name"), nullable=False, index=True),
    sa.Column("tier", sa.String(NAME_CHARS), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    # JSON lists; models is NULL where the tenant's all are meant.
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True)),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("last_used", sa.Double),
    # The counter's value when this row or its secrets last changed: a server reads what is above what it saw.
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
)

secrets = sa.Table(
    "secrets",
    metadata,
    # HMAC-SHA256 under the server's secret, in hexadecimal: the key itself is nowhere.
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("key_id", sa.ForeignKey("keys.id"), nullable=False, index=True),
    sa.Column("created", sa.Double, nullable=False),
    # Set when the key was rotated: until then the old secret is still good.
    sa.Column("expires", sa.Double),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(200), nullable=False),
)
