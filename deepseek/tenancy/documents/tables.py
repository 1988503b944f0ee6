"""The tables of a tenant's documents, and what is done with them within one transaction.

_documents          one row a document: where it came from, and by what to see that it changed
_passages           its passages; the text of each once
_passages_words     their words, by FTS5; rowid is the passage's
_passages_vectors   of each passage and embedding model a vector of 32-bit floats
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepseek.tenancy.documents.chunks import Chunk
from deepseek.tenancy.documents.segment import VERSION, segmented

TITLE_WEIGHT = 3.0
"""A word of the title counts for as many of the text."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS _documents (
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL UNIQUE,    -- a file's path, or what a program calls it
        name TEXT NOT NULL,             -- what is cited
        title TEXT NOT NULL,
        stamp TEXT NOT NULL,            -- time and size: cheap to compare, and enough to leave a file unread
        digest TEXT NOT NULL            -- of the text
    )""",
    """CREATE TABLE IF NOT EXISTS _passages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document INTEGER NOT NULL REFERENCES _documents (id) ON DELETE CASCADE,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        text TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS _passages_document ON _passages (document)",
    """CREATE TABLE IF NOT EXISTS _passages_vectors (
        passage INTEGER NOT NULL REFERENCES _passages (id) ON DELETE CASCADE,
        model TEXT NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (model, passage)
    ) WITHOUT ROWID""",
    """CREATE VIRTUAL TABLE IF NOT EXISTS _passages_words USING fts5
        (title, text, tokenize = 'porter unicode61 remove_diacritics 2')""",
    "CREATE TABLE IF NOT EXISTS _documents_state (version INTEGER NOT NULL, changes INTEGER NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a document that is in."""

    id: int
    stamp: str
    digest: str


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing; index anew what another version of `segment` made."""
    for statement in _SCHEMA:
        connection.execute(statement)
    found = connection.execute("SELECT version FROM _documents_state").fetchone()
    if found is None:
        connection.execute("INSERT INTO _documents_state VALUES (?, 0)", [VERSION])
    elif found[0] != VERSION:
        connection.execute("DELETE FROM _passages_words")
        rows = connection.execute(
            "SELECT p.id, d.title, p.text FROM _passages AS p JOIN _documents AS d ON d.id = p.document"
        ).fetchall()
        _add_words(connection, rows)
        connection.execute("UPDATE _documents_state SET version = ?", [VERSION])


def is_ready(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_documents_state'").fetchone()
    return found is not None and connection.execute("SELECT version FROM _documents_state").fetchone() == (VERSION,)


def changes(connection: sqlite3.Connection) -> int:
    """A number that is another after every change."""
    return int(connection.execute("SELECT changes FROM _documents_state").fetchone()[0])


def known(connection: sqlite3.Connection, source: str) -> Known | None:
    row = connection.execute("SELECT id, stamp, digest FROM _documents WHERE source = ?", [source]).fetchone()
    return None if row is None else Known(*row)


def sources_below(connection: sqlite3.Connection, folder: str) -> list[str]:
    """Those whose source is this, or a path below it."""
    prefix = folder.rstrip("/") + "/"
    rows = connection.execute(
        "SELECT source FROM _documents WHERE source = ? OR substr(source, 1, ?) = ?", [folder, len(prefix), prefix]
    )
    return [row[0] for row in rows]


def touch(connection: sqlite3.Connection, document: int, stamp: str) -> None:
    """The text is as it was, though the file is not."""
    connection.execute("UPDATE _documents SET stamp = ? WHERE id = ?", [stamp, document])


def put(
    connection: sqlite3.Connection,
    source: str,
    name: str,
    title: str,
    stamp: str,
    digest: str,
    chunks: Sequence[Chunk],
    vectors: Sequence[bytes] | None,
    model: str,
) -> None:
    """A document instead of what was there under its source."""
    remove(connection, [source])
    document = connection.execute(
        "INSERT INTO _documents (source, name, title, stamp, digest) VALUES (?, ?, ?, ?, ?)",
        [source, name, title, stamp, digest],
    ).lastrowid
    for at, chunk in enumerate(chunks):
        passage = connection.execute(
            "INSERT INTO _passages (document, start, stop, text) VALUES (?, ?, ?, ?)",
            [document, chunk.start, chunk.end, chunk.text],
        ).lastrowid
        assert passage is not None
        _add_words(connection, [(passage, title, chunk.text)])
        if vectors is not None:
            add_vectors(connection, model, [(passage, vectors[at])])
    _changed(connection)


def remove(connection: sqlite3.Connection, sources: Iterable[str]) -> int:
    """How many there were."""
    count = 0
    for source in sources:
        found = known(connection, source)
        if found is None:
            continue
        ids = connection.execute("SELECT id FROM _passages WHERE document = ?", [found.id]).fetchall()
        connection.executemany("DELETE FROM _passages_words WHERE rowid = ?", ids)
        connection.executemany("DELETE FROM _passages_vectors WHERE passage = ?", ids)
        connection.execute("DELETE FROM _passages WHERE document = ?", [found.id])
        connection.execute("DELETE FROM _documents WHERE id = ?", [found.id])
        count += 1
    if count:
        _changed(connection)
    return count


def without_vector(connection: sqlite3.Connection, model: str, most: int) -> list[tuple[int, str]]:
    """Passages that this model has not seen: id, and title with text."""
    return connection.execute(
        """SELECT p.id, d.title || char(10) || p.text FROM _passages AS p JOIN _documents AS d ON d.id = p.document
           WHERE NOT EXISTS (SELECT 1 FROM _passages_vectors AS v WHERE v.model = ? AND v.passage = p.id)
           ORDER BY p.id LIMIT ?""",
        [model, most],
    ).fetchall()


def add_vectors(connection: sqlite3.Connection, model: str, vectors: Iterable[tuple[int, bytes]]) -> None:
    """Of passages that are still there; the others were removed meanwhile."""
    for passage, vector in vectors:
        connection.execute(
            "INSERT OR REPLACE INTO _passages_vectors SELECT id, ?, ? FROM _passages WHERE id = ?",
            [model, vector, passage],
        )
    _changed(connection)


def by_words(connection: sqlite3.Connection, query: str, most: int) -> list[int]:
    """Passages by BM25, best first; with equal scores the one that came in first."""
    rows = connection.execute(
        f"""SELECT rowid FROM _passages_words WHERE _passages_words MATCH ?
            ORDER BY bm25(_passages_words, {TITLE_WEIGHT}, 1.0), rowid LIMIT ?""",
        [query, most],
    )
    return [row[0] for row in rows]


def all_vectors(connection: sqlite3.Connection, model: str) -> list[tuple[int, bytes]]:
    return connection.execute(
        "SELECT passage, vector FROM _passages_vectors WHERE model = ? ORDER BY passage", [model]
    ).fetchall()


def passages(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, tuple[str, str, str, int, int]]:
    """name, title, text, start and stop by id."""
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(
        f"""SELECT p.id, d.name, d.title, p.text, p.start, p.stop FROM _passages AS p
            JOIN _documents AS d ON d.id = p.document WHERE p.id IN ({marks})""",
        list(ids),
    )
    return {row[0]: tuple(row[1:]) for row in rows}


def _add_words(connection: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    connection.executemany(
        "INSERT INTO _passages_words (rowid, title, text) VALUES (?, ?, ?)",
        ((passage, segmented(title), segmented(text)) for passage, title, text in rows),
    )


def _changed(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE _documents_state SET changes = changes + 1")
