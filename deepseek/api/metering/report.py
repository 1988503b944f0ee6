"""What the ledger says: usage summed by tenant, key, model and day, a page at a time; as JSON or as CSV.

Sums are integers (tokens; billionths of the currency), so a report is exact, and two pages never count a row twice: a page
begins after the last group of the one before, in the order of the groups themselves.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Literal, get_args

import sqlalchemy as sa

from deepseek.api.metering.prices import decimal_of
from deepseek.api.metering.tables import usage
from deepseek.api.store.database import Database
from deepseek.core.errors import ConfigError

Group = Literal["tenant", "key", "model", "day"]

GROUPS: tuple[Group, ...] = get_args(Group)
MAX_PAGE = 1000
DEFAULT_PAGE = 100
SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens", "cost")
_EPOCH = date(1970, 1, 1)
_COLUMNS: dict[Group, sa.ColumnElement[Any]] = {
    "tenant": usage.c.tenant,
    "key": usage.c.subject,
    "model": usage.c.model,
    "day": usage.c.day,
}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What a report is about. since, until: seconds since 1970, the end not included; of when requests were admitted.

    by: what is summed apart, in this order; nothing: one sum. tenant, key, model: only theirs. after: a page's `next`.
    Raises ConfigError for fields that cannot be.
    """

    since: float | None = None
    until: float | None = None
    by: tuple[Group, ...] = ("day",)
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    limit: int = DEFAULT_PAGE
    after: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PAGE:
            raise ConfigError("out of range", where="limit", found=self.limit, expected=f"1 to {MAX_PAGE}")
        texts = {"tenant": self.tenant, "key": self.key, "model": self.model}
        for where, text in texts.items():
            if text is not None and not _is_text(text):
                raise ConfigError("not a name", where=where, expected="Unicode text without NUL")
        if self.after is not None:
            self.start()

    def start(self) -> list[Any]:
        """The group that the page comes after."""
        assert self.after is not None
        try:
            values = json.loads(base64.urlsafe_b64decode(self.after.encode("ascii")))
            if isinstance(values, list) and len(values) == len(self.by) and all(map(_is_value, self.by, values)):
                return values
        except (ValueError, binascii.Error, RecursionError):
            pass
        raise ConfigError("not from a report like this", where="after", expected='what "next" said')


@dataclass(frozen=True, slots=True)
class UsageSum:
    """One group's sum. group: its values in the order of the query's `by`; a day as 2026-11-24. cost: nano-units."""

    group: tuple[str, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: int

    def values(self) -> list[str | int]:
        """In the order of `SUMS`; the cost as a decimal text."""
        total = self.prompt_tokens + self.completion_tokens
        tokens = [self.prompt_tokens, self.cached_tokens, self.completion_tokens, total]
        return [self.requests, *tokens, decimal_of(self.cost)]


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Sums in the order of their groups; next: what `after` must say for those that follow, None at the end."""

    by: tuple[Group, ...]
    sums: list[UsageSum]
    next: str | None

    def as_json(self) -> dict[str, Any]:
        data = [dict(zip((*self.by, *SUMS), (*each.group, *each.values()), strict=True)) for each in self.sums]
        return {"object": "list", "data": data, "next": self.next}

    def as_csv(self, *, header: bool = True) -> str:
        """RFC 4180. Texts that a spreadsheet would take for a formula begin with an apostrophe."""
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\r\n")
        if header:
            lines.writerow((*self.by, *SUMS))
        lines.writerows((*map(_plain, each.group), *each.values()) for each in self.sums)
        return out.getvalue()


class UsageReports:
    """Of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, query: UsageQuery) -> UsagePage:
        """Raises StoreError."""
        return await self._database.report(lambda connection: read_page(connection, query))


def read_page(connection: sa.Connection, query: UsageQuery) -> UsagePage:
    columns = [_COLUMNS[group] for group in query.by]
    tokens = [usage.c.prompt_tokens, usage.c.cached_tokens, usage.c.completion_tokens, usage.c.cost]
    select = sa.select(*columns, sa.func.count(), *(sa.func.coalesce(sa.func.sum(column), 0) for column in tokens))
    select = select.where(*_conditions(query))
    if columns:
        select = select.group_by(*columns).order_by(*columns).limit(query.limit + 1)
        if query.after is not None:
            select = select.where(sa.tuple_(*columns) > sa.tuple_(*query.start()))
    rows = connection.execute(select).all()
    size = len(columns)
    sums = [UsageSum(_shown(query.by, row[:size]), *map(int, row[size:])) for row in rows[: query.limit]]
    more = bool(columns) and len(rows) > query.limit
    return UsagePage(query.by, sums, _cursor(rows[query.limit - 1][:size]) if more else None)


def read_all(database: Database, query: UsageQuery) -> Iterator[UsagePage]:
    """Every page from the query's on, for the command line."""
    while True:
        page = database.read_now(partial(read_page, query=query))
        yield page
        if page.next is None:
            return
        query = replace(query, after=page.next)


def groups_of(text: str) -> tuple[Group, ...]:
    """`key,model,day`. Raises ConfigError."""
    named = [part.strip() for part in text.split(",")] if text.strip() else []
    found = tuple(group for name in named for group in GROUPS if group == name)
    if len(found) != len(named) or len(set(found)) != len(found):
        expected = f"some of {', '.join(GROUPS)}, each once"
        raise ConfigError("not groups", where="by", found=text[:80], expected=expected)
    return found


def moment_of(text: str, where: str) -> float:
    """`2026-11-24` (midnight UTC) or `2026-11-24T12:00:00Z`, in seconds since 1970. Raises ConfigError."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            "not a time", where=where, found=text[:80], expected="2026-11-24 or 2026-11-24T12:00:00Z"
        ) from None


def _conditions(query: UsageQuery) -> Iterator[sa.ColumnElement[bool]]:
    if query.since is not None:
        yield usage.c.time >= query.since
    if query.until is not None:
        yield usage.c.time < query.until
    for column, wanted in ((usage.c.tenant, query.tenant), (usage.c.subject, query.key), (usage.c.model, query.model)):
        if wanted is not None:
            yield column == wanted


def _shown(by: Sequence[Group], values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        (_EPOCH + timedelta(days=value)).isoformat() if group == "day" else str(value)
        for group, value in zip(by, values, strict=True)
    )


def _is_value(group: Group, value: object) -> bool:
    if group == "day":
        return type(value) is int and 0 <= value < 2**31
    return isinstance(value, str) and _is_text(value)


def _is_text(text: str) -> bool:
    """Whether a database takes it."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _cursor(values: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(values)).encode()).decode()


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
