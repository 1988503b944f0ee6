"""The tables that runs are recorded in, and how events become rows and rows events; `record` says when.

runs: one row for each, what is known of it without reading it; the only rows that change. events: only ever added to.
contents: what is large, once, by the hash of its JSON. turns: the messages of conversations (see `memory`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from deepseek.agent.events import (
    Content,
    Event,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunSuspended,
    event_fields,
)

INLINE_CHARS = 256
"""A longer one is kept in `contents`."""
VERSION = 1

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, agent TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL, started REAL NOT NULL,
    changed REAL NOT NULL, parent TEXT, conversation TEXT, state TEXT
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (started);
CREATE TABLE IF NOT EXISTS events (
    run TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, kept TEXT,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (hash BLOB PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (
    conversation TEXT NOT NULL, seq INTEGER NOT NULL, message TEXT NOT NULL, PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""

RUN_COLUMNS = "id, agent, model, status, started, changed, parent, conversation"

_ENCODER = json.JSONEncoder(default=str)


class Recorded(NamedTuple):
    """An event at its place: the seq-th of its run, counted from 1; `at` in seconds since 1970."""

    run_id: str
    seq: int
    at: float
    event: Event


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is read again: its kind, and its fields as JSON's values (see `events`)."""

    run_id: str
    seq: int
    at: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRow:
    """What is known of a run without reading it. status: running, suspended, finished, limited, failed, cancelled."""

    id: str
    agent: str
    model: str
    status: str
    started: float
    changed: float
    parent: str | None
    conversation: str | None


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, all or none, where there are none yet."""
    if not is_prepared(connection):
        connection.executescript(_SCHEMA)


def is_prepared(connection: sqlite3.Connection) -> bool:
    """A file is there a moment before its tables are."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] >= VERSION)


def insert(connection: sqlite3.Connection, rows: Iterable[Recorded]) -> None:
    events, contents = [], []
    for row in rows:
        data = event_fields(row.event)
        kept: dict[str, str] = {}
        for name in row.event.kept:
            value = data[name]
            if value is None or (isinstance(value, str) and len(value) <= INLINE_CHARS):
                continue
            held = getattr(row.event, name)
            digest, text = (held if isinstance(held, Content) else Content(value)).written()
            if len(text) > INLINE_CHARS:
                contents.append((digest, text))
                kept[name] = digest.hex()
                del data[name]
        at = row.run_id, row.seq, row.at, row.event.kind
        events.append((*at, _ENCODER.encode(data), json.dumps(kept) if kept else None))
    if contents:
        connection.executemany("INSERT OR IGNORE INTO contents VALUES (?, ?)", contents)
    if events:
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", events)
    for row in rows:
        if row.event.kind.startswith("run_"):
            _note_run(connection, row)


def read_events(connection: sqlite3.Connection, run_id: str, after: int, limit: int) -> list[StoredEvent]:
    rows = connection.execute(
        "SELECT seq, at, kind, data, kept FROM events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?",
        (run_id, after, limit),
    ).fetchall()
    found = []
    for seq, at, kind, written, kept in rows:
        data = json.loads(written)
        for name, digest in json.loads(kept or "{}").items():
            content = connection.execute(
                "SELECT text FROM contents WHERE hash = ?", (bytes.fromhex(digest),)
            ).fetchone()
            data[name] = json.loads(content[0])
        found.append(StoredEvent(run_id, seq, at, kind, data))
    return found


def _note_run(connection: sqlite3.Connection, row: Recorded) -> None:
    event = row.event
    if isinstance(event, RunStarted):
        connection.execute(
            "INSERT INTO runs VALUES (?, ?, ?, 'running', ?, ?, ?, ?, NULL)",
            (row.run_id, event.agent, event.model, row.at, row.at, event.parent, event.conversation),
        )
        return
    status = _status(event)
    if status is not None:
        connection.execute("UPDATE runs SET status = ?, changed = ? WHERE id = ?", (status, row.at, row.run_id))


def _status(event: Event) -> str | None:
    if isinstance(event, RunSuspended):
        return "suspended"
    if isinstance(event, RunResumed):
        return "running"
    if isinstance(event, RunFinished):
        return event.status
    if isinstance(event, RunFailed):
        return "cancelled" if event.cancelled else "failed"
    return None
