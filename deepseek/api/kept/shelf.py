"""Where a server keeps things for its tenants: the control database, and a directory for what is too large for it.

A server that was given neither keeps them in a directory of its own, made when first needed and gone when it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import sqlalchemy as sa

    from deepseek.api.store.database import Database
    from deepseek.api.store.writer import Writer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Place:
    database: Database
    writer: Writer
    directory: Path


class Shelf:
    """Reads and writes rows off the event loop, and says where a tenant's files are.

    database, writer, directory: all given, or none.
    """

    def __init__(
        self, database: Database | None = None, writer: Writer | None = None, directory: Path | None = None
    ) -> None:
        self._place: _Place | None = None
        if database is not None and writer is not None and directory is not None:
            self._place = _Place(database, writer, directory)
        self.uploads = 0
        """Files that are being received."""
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._opening = asyncio.Lock()

    @property
    def in_use(self) -> bool:
        """Whether anything may be kept there yet."""
        return self._place is not None

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """`work(connection)` in a worker thread. Raises StoreError where the database cannot be used."""
        return await (await self._opened()).database.read(work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """`work(connection)` in a transaction, once it is on disk. Raises as `read`."""
        return await (await self._opened()).writer.run(work)

    async def directory_of(self, tenant: str) -> Path:
        """The tenant's directory, made if it is not there. Its name tells nothing of the tenant's."""
        place = await self._opened()
        directory = place.directory / hashlib.sha256(tenant.encode()).hexdigest()[:32]
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        return directory

    async def close(self) -> None:
        """Throw away what was only for this server. What it was given is its owner's to close."""
        own, self._own = self._own, None
        if own is not None and self._place is not None:
            place, self._place = self._place, None
            await asyncio.to_thread(_close, place, own)

    async def _opened(self) -> _Place:
        if self._place is None:
            async with self._opening:
                if self._place is None:
                    self._own, self._place = await asyncio.to_thread(_open_temporary)
        assert self._place is not None
        return self._place


def _open_temporary() -> tuple[tempfile.TemporaryDirectory[str], _Place]:
    from deepseek.api.store.database import Database
    from deepseek.api.store.writer import Writer

    own = tempfile.TemporaryDirectory(prefix="deepseek-", ignore_cleanup_errors=True)
    directory = Path(own.name)
    database = Database.open(str(directory / "kept.sqlite"))
    return own, _Place(database, Writer(database), directory / "files")


def _close(place: _Place, own: tempfile.TemporaryDirectory[str]) -> None:
    place.writer.close()
    place.database.close()
    own.cleanup()
