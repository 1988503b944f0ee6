"""The server's secret: what keys are hashed under and cache salts are drawn from. In a file beside the database, or in
the environment; never in the database, which keeps only a mark by which a wrong secret is noticed at the start.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

import sqlalchemy as sa

from deepseek.api.store.database import Database
from deepseek.api.store.tables import facts
from deepseek.core.errors import ConfigError

VARIABLE = "DEEPSEEK_SECRET"
SECRET_BYTES = 32
LEAST_CHARS = 32
MARK = "secret-mark"


def secret_of(database: Database) -> bytes:
    """The secret that belongs to this database, made at the first use of an SQLite file.

    Raises ConfigError: a secret that is missing, weak, readable for others, or not the one the keys were made under.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        if len(given) < LEAST_CHARS:
            raise ConfigError(
                "the secret is too short",
                where=VARIABLE,
                found=f"{len(given)} characters",
                expected=f"at least {LEAST_CHARS}",
                fix="python -c 'import secrets; print(secrets.token_hex(32))' prints a good one",
            )
        where, secret = VARIABLE, given.encode()
    elif database.path is not None:
        file = database.path.with_name(database.path.name + ".secret")
        where, secret = str(file), _from_file(file)
    else:
        raise ConfigError(
            "a PostgreSQL database needs the server's secret in the environment, the same for every server",
            where=VARIABLE,
            fix="python -c 'import secrets; print(secrets.token_hex(32))' prints a good one",
        )
    mark = derive(secret, MARK).hex()
    if database.write_now(lambda connection: _mark(connection, mark)) != mark:
        raise ConfigError(
            "this is not the secret that the database's keys were made under",
            where=where,
            fix="bring back the old one, or start a new database",
        )
    return secret


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, from which neither the secret nor those of another purpose can be told."""
    return hmac.digest(secret, f"deepseek:{purpose}".encode(), "sha256")


def _from_file(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError("the secret cannot be kept here", where=file, found=error.strerror) from None
    else:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(SECRET_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    try:
        mode = file.stat().st_mode & 0o777
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the secret cannot be read", where=file, found=type(error).__name__) from None
    if mode & 0o077:
        raise ConfigError(
            "others may read the secret", where=file, found=f"mode {mode:o}", expected="600", fix=f"chmod 600 {file}"
        )
    if len(text) < LEAST_CHARS:
        raise ConfigError("the secret is damaged", where=file, expected=f"at least {LEAST_CHARS} characters")
    return text.encode()


def _mark(connection: sa.Connection, mark: str) -> str:
    """The database's mark; this one, if it had none."""
    held = connection.execute(sa.select(facts.c.value).where(facts.c.name == MARK)).scalar()
    if held is None:
        connection.execute(facts.insert().values(name=MARK, value=mark))
        return mark
    return str(held)
