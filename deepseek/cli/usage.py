"""`deepseek usage`: what the ledger says, as a table or as CSV. It may be asked while a server runs."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from deepseek.api.config import load
from deepseek.api.metering.report import MAX_PAGE, SUMS, UsagePage, UsageQuery, UsageSum, groups_of, moment_of, read_all
from deepseek.api.platform import default_database
from deepseek.api.store.database import Database
from deepseek.cli.screen import print_line

TITLES = {"requests": "requests", "cost": "cost"} | {name: name.removesuffix("_tokens") for name in SUMS[1:5]}


def run(
    database: str | None,
    config: Path | None,
    *,
    since: str | None,
    until: str | None,
    by: str,
    tenant: str | None,
    key: str | None,
    model: str | None,
    as_csv: bool,
) -> None:
    """database: a file or a URL; else the configuration's, else this user's. Raises ConfigError, and StoreError where the
    database does not answer."""
    query = UsageQuery(
        since=None if since is None else moment_of(since, "--since"),
        until=None if until is None else moment_of(until, "--until"),
        by=groups_of(by),
        tenant=tenant,
        key=key,
        model=model,
        limit=MAX_PAGE,
    )
    named = database or (load(config).database if config is not None else None) or default_database()
    opened = Database.open(named)
    try:
        if as_csv:
            for count, page in enumerate(read_all(opened, query)):
                sys.stdout.write(page.as_csv(header=count == 0))
        else:
            print_table(Console(), list(read_all(opened, query)))
    finally:
        opened.close()


def print_table(screen: Console, pages: list[UsagePage]) -> None:
    """Names to the left, numbers to the right. Lines are never cut: a terminal wraps them."""
    by, sums = pages[0].by, [each for page in pages for each in page.sums]
    rows = [[*by, *(TITLES[name] for name in SUMS)], *map(_cells, sums)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if place < len(by) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print_line(screen, "  ".join(cells).rstrip(), "" if number else "dim")


def _cells(each: UsageSum) -> list[str]:
    return [*each.group, *(f"{value:,}" if isinstance(value, int) else value for value in each.values())]
