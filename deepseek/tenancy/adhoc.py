"""SQL that somebody else wrote, a model for one: what it may touch, and how much it may take.

SQLite asks the authoriser about everything a statement would do, when it is compiled. Refused are other files (ATTACH),
settings (PRAGMA but for those that describe tables), transactions, virtual tables, triggers and temporary things,
extensions, and all tables whose name begins with `_`: these are this program's own (an agent's memory, its events, the
index of documents). https://www.sqlite.org/security.html
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.core.errors import DeepSeekError

Value = str | bytes | int | float | None
Parameters = Sequence[Any] | Mapping[str, Any]

_READ = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_WRITE = _READ | {
    sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_DROP_VIEW, sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_REINDEX,
}  # fmt: skip
_DESCRIBING = {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "sqlite_compileoption_get", "sqlite_compileoption_used"}
# What a table-valued function (json_each) is declared by; a connection that only reads cannot do it otherwise.
_DECLARING = {(sqlite3.SQLITE_UPDATE, "sqlite_master")}
_INNER_TABLES = {"dbstat", "sqlite_dbpage", "sqlite_stmt", "bytecode", "tables_used"}
_STEPS = 1000  # of SQLite's virtual machine between looks at the clock


class QueryError(DeepSeekError):
    """SQL was refused, is wrong, or took more than it may. `kind` is one of refused, wrong, limit, busy, closed."""

    def __init__(
        self,
        what: str,
        *,
        kind: str = "wrong",
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one statement may take.

    rows, result_bytes: of the answer; it is cut there and says so. seconds: from its begin. value_bytes: of one value, row or
    statement. file_bytes: of the tenant's database.
    """

    rows: int = 1000
    result_bytes: int = 1 << 20
    seconds: float = 5.0
    value_bytes: int = 1 << 20
    file_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True)
class Rows:
    """An answer. truncated: there was more than the limits let through. changed: rows inserted, updated or deleted."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    truncated: bool = False
    changed: int = 0

    def dicts(self) -> list[dict[str, Value]]:
        """Each row by the names of its columns; of two columns of a name the last."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class AdHoc:
    """A connection for such SQL, used from one thread. read_only: whether it may only look."""

    def __init__(self, connection: sqlite3.Connection, limits: QueryLimits, *, read_only: bool) -> None:
        self._connection = connection
        self._read_only = read_only
        self._refused: str | None = None
        self._ends = 0.0
        self._stopped: Callable[[], bool] = bool
        self._sql = ""
        bound = connection.setlimit
        bound(sqlite3.SQLITE_LIMIT_LENGTH, limits.value_bytes)
        bound(sqlite3.SQLITE_LIMIT_SQL_LENGTH, min(limits.value_bytes, 100_000))
        bound(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        bound(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
        bound(sqlite3.SQLITE_LIMIT_COLUMN, 500)
        bound(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50)
        bound(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
        bound(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 10_000)
        connection.set_progress_handler(self._is_over, _STEPS)
        connection.set_authorizer(self._authorise)

    def run(self, sql: str, parameters: Parameters, limits: QueryLimits, stopped: Callable[[], bool] = bool) -> Rows:
        """One statement. stopped: asked now and then whether nobody waits for it any more. Raises QueryError."""
        self._refused, self._sql, self._stopped = None, sql, stopped
        self._ends = time.monotonic() + limits.seconds
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, parameters)
            return self._read(cursor, limits)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError, TypeError, ValueError) as error:
            raise self._explained(error, limits) from None
        finally:
            cursor.close()

    def _read(self, cursor: sqlite3.Cursor, limits: QueryLimits) -> Rows:
        if cursor.description is None:
            return Rows(changed=max(0, cursor.rowcount))
        columns = tuple(column[0] for column in cursor.description)
        rows: list[tuple[Value, ...]] = []
        size, truncated = 0, False
        for row in cursor:
            size += sum(_size(value) for value in row)
            if len(rows) >= limits.rows or size > limits.result_bytes:
                truncated = True
                break
            rows.append(row)
        if truncated and not self._read_only:
            for _ in cursor:  # RETURNING: to its end, or what it does is undone
                pass
        return Rows(columns, tuple(rows), truncated, max(0, cursor.rowcount))

    def _is_over(self) -> bool:
        return time.monotonic() > self._ends or self._stopped()

    def _explained(self, error: Exception, limits: QueryLimits) -> QueryError:
        if self._refused is not None:
            return QueryError("this may not be done", kind="refused", found=self._refused)
        text = str(error)
        if "interrupted" in text:
            return QueryError(f"it took longer than {limits.seconds:g} s", kind="limit", fix="ask for less at once")
        if "too big" in text or "too large" in text or "full" in text:
            return QueryError("too large", kind="limit", found=text[:200])
        if "locked" in text or "busy" in text:
            return QueryError("the database is busy", kind="busy", fix="try again")
        if "one statement" in text:
            return QueryError("there are several statements", kind="wrong", expected="one at a time")
        if "not authorized" in text or "readonly" in text or "prohibited" in text:
            return QueryError("this may not be done", kind="refused", found=text[:200])
        return QueryError(text[:300] or type(error).__name__)

    def _authorise(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        why = self._why_not(action, first or "", second or "", database or "")
        if why is None:
            return sqlite3.SQLITE_OK
        self._refused = why
        return sqlite3.SQLITE_DENY

    def _why_not(self, action: int, first: str, second: str, database: str) -> str | None:
        if action == sqlite3.SQLITE_FUNCTION:
            return f"the function {second}" if second.lower() in _FORBIDDEN_FUNCTIONS else None
        if action == sqlite3.SQLITE_PRAGMA:
            return None if first.lower() in _DESCRIBING else f"PRAGMA {first}"
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return "another file"
        if self._read_only and (action, first) in _DECLARING:
            return None
        if action not in (_READ if self._read_only else _WRITE):
            return "a change; this only reads" if action in _WRITE else f"a statement of this kind ({action})"
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return None
        if action == sqlite3.SQLITE_ALTER_TABLE:
            first, database = second, first
            if "rename" in self._sql.lower():
                return "to rename"  # the new name is not told, and could be one of ours
        names = (first,) if action in (sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE) else (first, second)
        for name in names:
            if name.startswith("_") or name.lower() in _INNER_TABLES:
                return f"the table {name}"
        return f"a table of {database}" if database not in ("main", "") and action not in _READ else None


def _size(value: Value) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    return len(value) if isinstance(value, bytes) else 8
