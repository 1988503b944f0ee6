"""Bring a database's tables to the version this package knows, by the migrations in the package. Idempotent.

Two processes may start at once: SQLite's write lock, or an advisory lock of PostgreSQL, lets one go first. A database
that is up to date is recognised by one read, without loading the migration tool.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from deepseek.core.errors import ConfigError

HEAD = "0004"
"""The newest migration. A test compares it with the files."""

MIGRATIONS = Path(__file__).with_name("migrations")
ADVISORY_LOCK = 0x6473_6462  # any number nobody else takes


def upgrade(engine: sa.Engine, shown: str) -> None:
    """engine: begins transactions that write. shown: the database, for errors. Raises ConfigError for a newer one."""
    with engine.connect() as connection:
        if _version(connection) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        version = _version(connection)
        if version is not None and version not in known:
            raise ConfigError(
                "a newer version of deepseek made this database",
                where=shown,
                found=f"revision {version}",
                expected=f"{HEAD} or older",
                fix="upgrade deepseek-stack",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)
