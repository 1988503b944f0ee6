"""A PostgreSQL server of the tests' own, on a Unix socket, gone with the session. Nothing of it touches the network."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def installed() -> bool:
    found = _program("initdb") is not None and _program("postgres") is not None
    return found and (os.getuid() != 0 or _other_user() is not None)


def _program(name: str) -> str | None:
    """On the path, or where Debian's packages keep what is not meant to be called by hand: the newest."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


def _other_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database."""
    user = _other_user()
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        if user is not None:
            shutil.chown(directory, user)
        data = f"{directory}/data"
        run = {"user": user, "cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(
            [_program("initdb"), "-D", data, "-U", "deepseek", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            **run,
        )
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"]
        server = subprocess.Popen([_program("postgres"), "-D", data, "-k", directory, *options], **run)
        try:
            url = f"postgresql://deepseek@/postgres?host={directory}"
            _wait_for(url)
            yield url
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > ends:
                raise


def empty(url: str) -> None:
    """Throw away whatever is in the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
