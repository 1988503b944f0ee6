"""SQL on the tenant's own database, as a tool: authorised and bounded by `tenancy.adhoc`; reading only unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry, ToolTransient
from deepseek.agent.tools.services import Databases
from deepseek.core.errors import ToolError
from deepseek.tenancy.adhoc import QueryError, QueryLimits, Rows, Value

LIMITS = QueryLimits(rows=100, result_bytes=32 << 10, seconds=5.0)
_ERRORS: dict[str, type[ToolError]] = {
    "wrong": ToolRetry,
    "limit": ToolRetry,
    "refused": ToolRefused,
    "busy": ToolTransient,
    "closed": ToolFailed,
}


def sql_tool(
    databases: Databases, *, may_write: bool = False, limits: QueryLimits = LIMITS
) -> Callable[..., Awaitable[str]]:
    """The tool `query_database`."""

    async def run(sql: str, context: ToolContext) -> str:
        database = databases.of(context)
        try:
            rows = await (database.execute if may_write else database.query)(sql, (), limits)
        except QueryError as error:
            kind = _ERRORS.get(error.kind, ToolFailed)
            raise kind(error.what, found=error.found, expected=error.expected, fix=error.fix) from None
        return written(rows)

    async def query_database(sql: str, context: ToolContext) -> str:
        """Run a read-only SQL query"""
        return await run(sql, context)

    async def change_database(sql: str, context: ToolContext) -> str:
        """Run one SQL statement, which may change the database"""
        return await run(sql, context)

    return change_database if may_write else query_database


def written(rows: Rows) -> str:
    """One line for the columns, one for each row, the values as JSON between bars; a single value alone is only itself."""
    if not rows.columns:
        return f"changed {rows.changed} rows"
    if len(rows.columns) == 1 and len(rows.rows) == 1 and not rows.truncated:
        value = rows.rows[0][0]
        return value if isinstance(value, str) else _shown(value)
    lines = [" | ".join(rows.columns), *(_line(row) for row in rows.rows)]
    lines.append(f"[cut after {len(rows.rows)} rows]" if rows.truncated else "" if rows.rows else "(no rows)")
    return "\n".join(line for line in lines if line)


def _line(row: Sequence[Value]) -> str:
    return " | ".join(_shown(value) for value in row)


def _shown(value: Value) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and value.isprintable() and "|" not in value and value == value.strip() and value:
        return value
    return json.dumps(value, ensure_ascii=False)
