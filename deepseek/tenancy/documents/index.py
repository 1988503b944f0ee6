"""The index of a tenant's documents: put in, brought up to date, removed, searched. All of it off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.documents import Passage
from deepseek.core.errors import DeepSeekError, ModelError
from deepseek.core.language import Embedder
from deepseek.tenancy.context import check_tenant, current_tenant
from deepseek.tenancy.database import TenantDatabase, TenantDatabases
from deepseek.tenancy.documents import tables
from deepseek.tenancy.documents.chunks import Chunk, chunks
from deepseek.tenancy.documents.reading import Reader, files_of, read_text, title_of
from deepseek.tenancy.documents.segment import coverage, question, words

MAX_QUERY_CHARS = 2000
MAX_LIMIT = 50
CANDIDATES = 50
"""Passages that words and meaning each propose."""
EMBED_BATCH = 16


@dataclass(frozen=True, slots=True)
class Indexed:
    """What bringing a path up to date came to, in files. skipped: what has no text, and why, by name."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: tuple[tuple[str, str], ...] = ()


class DocumentIndex:
    """Of all tenants, each in its own database.

    root: the data directory. databases: to share those that are open. embedder: to find by meaning too; passages that it has
    not seen are found by their words alone.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        databases: TenantDatabases | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self._databases = databases or TenantDatabases(root)
        self._embedder = embedder
        self._matrices: object | None = None

    async def search(self, query: str, *, tenant: str | None = None, limit: int = 5) -> Sequence[Passage]:
        """The passages that fit a question best, best first. Where the embedding model fails, by words alone.

        Raises TenancyError where there is no tenant.
        """
        name = current_tenant() if tenant is None else check_tenant(tenant)
        database = self._databases.of(name)
        wanted = words(query[:MAX_QUERY_CHARS])
        if not wanted or limit < 1 or not await database.read(tables.is_ready):
            return ()
        ranked = [await database.read(lambda connection: tables.by_words(connection, question(wanted), CANDIDATES))]
        if self._embedder is not None:
            with contextlib.suppress(ModelError):
                ranked.append(await self._near(database, query[:MAX_QUERY_CHARS], self._embedder))
        return await self._passages(database, ranked, wanted, min(limit, MAX_LIMIT))

    async def put(
        self, source: str, text: str, *, name: str | None = None, title: str | None = None, tenant: str | None = None
    ) -> bool:
        """Put a text in under a name of its own, instead of what was there. Whether that changed anything.

        name: what is cited; by default the source.
        """
        database = await self._ready(tenant)
        return await self._put(database, source, name or source, title, text, stamp="")

    async def remove(self, source: str, *, tenant: str | None = None) -> int:
        """Take out a document, or all those below a folder; how many."""
        database = await self._ready(tenant)
        return await database.write(
            lambda connection: tables.remove(connection, tables.sources_below(connection, source))
        )

    async def update(
        self,
        path: str | os.PathLike[str],
        *,
        tenant: str | None = None,
        reader: Reader = read_text,
        tell: Callable[[str], None] = lambda name: None,
    ) -> Indexed:
        """Bring a file, or all files of a folder, up to date: read is only what changed since, and what is gone is removed.

        tell: called with each file's name. Raises ConfigError for what is no path.
        """
        database = await self._ready(tenant)
        top = Path(os.path.abspath(os.path.expanduser(path)))
        before = await database.read(lambda connection: set(tables.sources_below(connection, str(top))))
        if before and not top.exists():
            gone = await database.write(lambda connection: tables.remove(connection, before))
            return Indexed(removed=gone)
        counts = {"added": 0, "changed": 0, "unchanged": 0}
        skipped: list[tuple[str, str]] = []
        found = await asyncio.to_thread(lambda: list(files_of(top)))
        for file in found:
            name = _plain(str(file.relative_to(top.parent)))
            tell(name)
            try:
                outcome = await self._update_file(database, file, name, reader)
            except (OSError, DeepSeekError) as error:
                skipped.append((name, str(error)[:200]))
                continue
            if outcome is None:
                skipped.append((name, "no text"))
                continue
            counts[outcome] += 1
            before.discard(_plain(str(file)))
        removed = await database.write(lambda connection: tables.remove(connection, before)) if before else 0
        await self.embed_missing(tenant=database.tenant)
        return Indexed(**counts, removed=removed, skipped=tuple(skipped))

    async def embed_missing(self, *, tenant: str | None = None) -> int:
        """Let the embedding model see what it has not seen; how many passages that were. Raises ModelError."""
        if self._embedder is None:
            return 0
        database, model, count = await self._ready(tenant), self._embedder.name, 0
        while rows := await database.read(lambda connection: tables.without_vector(connection, model, EMBED_BATCH)):
            vectors = await self._vectors([text for _, text in rows], self._embedder)
            pairs = list(zip([passage for passage, _ in rows], vectors, strict=True))
            await database.write(lambda connection, pairs=pairs: tables.add_vectors(connection, model, pairs))  # type: ignore[misc]
            count += len(rows)
        return count

    def close(self) -> None:
        """Let go of the files. Blocks."""
        self._databases.close()

    async def _ready(self, tenant: str | None) -> TenantDatabase:
        database = self._databases.of(current_tenant() if tenant is None else check_tenant(tenant))
        if not await database.read(tables.is_ready):
            await database.write(tables.prepare)
        return database

    async def _update_file(self, database: TenantDatabase, file: Path, name: str, reader: Reader) -> str | None:
        """added, changed, unchanged; None for what has no text."""
        source = _plain(str(file))
        status = await asyncio.to_thread(file.stat)
        stamp = f"{status.st_mtime_ns} {status.st_size}"
        known = await database.read(lambda connection: tables.known(connection, source))
        if known is not None and known.stamp == stamp:
            return "unchanged"
        text = await reader(file)
        if text is None:
            return None
        if await self._put(database, source, name, None, text, stamp=stamp):
            return "added" if known is None else "changed"
        return "unchanged"

    async def _put(
        self, database: TenantDatabase, source: str, name: str, title: str | None, text: str, stamp: str
    ) -> bool:
        source, name, text = _plain(source), _plain(name), _plain(text)
        made = _plain(title) if title else title_of(text, name)
        digest = hashlib.sha256(f"{name}\0{made}\0{text}".encode()).hexdigest()
        known = await database.read(lambda connection: tables.known(connection, source))
        if known is not None and known.digest == digest:
            await database.write(lambda connection: tables.touch(connection, known.id, stamp))
            return False
        pieces: list[Chunk] = await asyncio.to_thread(lambda: list(chunks(text)))
        await database.write(
            lambda connection: tables.put(connection, source, name, made, stamp, digest, pieces, None, "")
        )
        return True

    async def _near(self, database: TenantDatabase, query: str, embedder: Embedder) -> list[int]:
        from deepseek.tenancy.documents.vectors import Matrices, matrix, unit

        if not isinstance(self._matrices, Matrices):
            self._matrices = Matrices()
        vector = unit((await embedder.embed([query]))[0])
        kept, key = self._matrices, (database.tenant, embedder.name)

        def read(connection: sqlite3.Connection) -> list[int]:
            now = tables.changes(connection)
            found = kept.get(key, now)
            if found is None:
                found = matrix(now, tables.all_vectors(connection, embedder.name))
                kept.put(key, found)
            return found.nearest(vector, CANDIDATES)

        return await database.read(read)

    async def _vectors(self, texts: Sequence[str], embedder: Embedder) -> list[bytes]:
        from deepseek.tenancy.documents.vectors import packed

        vectors = await embedder.embed(texts)
        if len(vectors) != len(texts):
            raise ModelError("the embedding model gave not one vector a text", found=len(vectors), expected=len(texts))
        return [packed(vector) for vector in vectors]

    async def _passages(
        self, database: TenantDatabase, ranked: Sequence[Sequence[int]], wanted: list[str], limit: int
    ) -> tuple[Passage, ...]:
        from deepseek.tenancy.documents.vectors import fused

        best = fused(*ranked)[:CANDIDATES]
        rows = await database.read(lambda connection: tables.passages(connection, [found for found, _ in best]))
        passages: list[Passage] = []
        for found, score in best:
            if found not in rows:  # removed meanwhile
                continue
            name, title, text, start, stop = rows[found]
            overlapping = any(other.name == name and start < other.end and other.start < stop for other in passages)
            if overlapping:  # the next passage begins with this one's end, and need not be told twice
                continue
            passages.append(Passage(name, title, text, start, stop, coverage(wanted, f"{title}\n{text}"), score))
            if len(passages) == limit:
                break
        return tuple(passages)


def _plain(text: str) -> str:
    """Without halves of surrogate pairs, which names of files may have and a database does not take."""
    return text.encode("utf-8", "backslashreplace").decode()
