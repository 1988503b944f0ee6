"""Reports of the ledger: sums that add up, pages that neither repeat nor lose, a tenant that sees its own alone."""

import asyncio
import csv
import io
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from api_support import quick
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metering_support import NOON, Books, opened
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deepseek.api import serving
from deepseek.api.metering.counters import record, usage_row
from deepseek.api.metering.prices import Price
from deepseek.api.metering.report import (
    GROUPS,
    UsagePage,
    UsageQuery,
    UsageReports,
    UsageSum,
    groups_of,
    moment_of,
    read_all,
)
from deepseek.api.store.database import READERS
from deepseek.core.engine import Usage
from deepseek.core.errors import ConfigError

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
PRICE = Price(1_000_000_000, 500_000_000, 2_000_000_000)


def entry(tenant: str, key: str, model: str, at: float, prompt: int = 10, completion: int = 5) -> dict[str, Any]:
    row = {
        "request_id": "r",
        "opened": at,
        "tenant": tenant,
        "subject": key,
        "key_id": key,
        "model": model,
        "route": "/",
    }
    return usage_row(row, Usage(prompt, completion, prompt // 2), PRICE, "stop", 0.5)


def fill(books: Books, rows: list[dict[str, Any]]) -> None:
    if rows:
        books.database.write_now(lambda connection: record(connection, rows))


ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from(("acme", "béta", "c")),
        st.sampled_from(("k1", "k2", '"quoted", key')),
        st.sampled_from(("deepseek-7b", "tiny")),
        st.sampled_from((NOON, NOON + 1, NOON + 86400, NOON - 86400 * 30)),
        st.integers(0, 1000),
        st.integers(0, 1000),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(
    ENTRIES,
    st.lists(st.sampled_from(GROUPS), unique=True).map(tuple),
    st.integers(1, 7),
    st.sampled_from((None, "acme")),
    st.sampled_from((None, NOON)),
    st.sampled_from((None, NOON + 1)),
)
def test_the_pages_of_a_report_are_the_sums_of_the_ledger(
    rows: list[dict[str, Any]],
    by: tuple[Any, ...],
    limit: int,
    tenant: str | None,
    since: float | None,
    until: float | None,
) -> None:
    expected: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    if not by:
        expected[()] = [0, 0, 0, 0, 0]
    for row in rows:
        at = row["time"]
        if (tenant or row["tenant"]) == row["tenant"] and (since or 0) <= at < (until or 1e12):
            names = {"tenant": row["tenant"], "key": row["subject"], "model": row["model"]}
            names["day"] = datetime.fromtimestamp(at, UTC).date().isoformat()
            sums = expected[tuple(names[group] for group in by)]
            added = (1, row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"], row["cost"])
            sums[:] = map(sum, zip(sums, added, strict=True))
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory) / "control.db") as books:
        fill(books, rows)
        query = UsageQuery(by=by, limit=limit, tenant=tenant, since=since, until=until)
        pages = list(read_all(books.database, query))
    found = [each for page in pages for each in page.sums]
    assert {each.group: [getattr(each, name) for name in UsageSum.__slots__[1:]] for each in found} == dict(expected)
    assert len(found) == len(expected)
    assert all(len(page.sums) == limit for page in pages[:-1])


@given(st.lists(st.tuples(st.text(), st.integers(0, 10**12)), max_size=5))
def test_csv_is_read_back_as_it_was_written_and_is_no_formula(rows: list[tuple[str, int]]) -> None:
    page = UsagePage(("key",), [UsageSum((key,), 1, 2, 3, 4, cost) for key, cost in rows], None)
    header, *lines = csv.reader(io.StringIO(page.as_csv(), newline=""))
    assert header == ["key", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens", "cost"]
    assert len(lines) == len(rows)
    for (key, cost), line in zip(rows, lines, strict=True):
        assert line[0].removeprefix("'") == key.removeprefix("'") and line[0][:1] not in ("=", "+", "-", "@")
        assert Decimal(line[-1]) == Decimal(cost).scaleb(-9)


@pytest.mark.parametrize("text", ["tenant,tenant", "city", "day;key", "day,"])
def test_groups_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="by"):
        groups_of(text)


def test_times_are_days_in_utc_or_moments() -> None:
    assert moment_of("2025-11-25T12:00:00Z", "since") == NOON
    assert moment_of("2025-11-25T13:00:00+01:00", "since") == NOON
    assert moment_of("2025-11-25", "since") == NOON - 43200
    with pytest.raises(ConfigError, match="since"):
        moment_of("yesterday", "since")


@given(st.text(max_size=40))
def test_a_page_mark_that_is_not_ours_is_refused_and_never_fails(text: str) -> None:
    query = UsageQuery(by=("key", "day"))
    try:
        assert len(replace(query, after=text).start()) == 2
    except ConfigError as error:
        assert "after" in str(error)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        fill(
            found,
            [
                entry("acme", "k1", "deepseek-7b", NOON),
                entry("acme", "k1", "tiny", NOON),
                entry("acme", "k2", "tiny", NOON + 86400),
                entry("other", "k9", "tiny", NOON),
            ],
        )
        yield found


def test_reports_have_threads_of_their_own(books: Books) -> None:
    held = threading.Event()

    async def work() -> None:
        reads = [asyncio.create_task(books.database.read(lambda _: held.wait(30))) for _ in range(READERS)]
        await asyncio.sleep(0)  # they are in the threads' queue
        page = await UsageReports(books.database).page(UsageQuery(by=()))
        held.set()
        await asyncio.gather(*reads)
        assert page.sums[0].requests == len(books.ledger)

    asyncio.run(asyncio.wait_for(work(), 30))


@pytest.fixture
def url(books: Books) -> Iterator[str]:
    with serving(books.state(quick(), books.meter())) as server:
        yield server.url


def get(
    url: str, path: str = "/v1/usage", who: str = "acme/k1", accept: str = "*/*", **query: str
) -> requests.Response:
    return requests.get(f"{url}{path}", params=query, headers={"x-caller": who, "accept": accept}, timeout=20)


def test_a_tenant_sees_its_own_usage(url: str) -> None:
    answer = get(url, by="key,model")
    assert answer.headers["cache-control"] == "no-store"
    assert [(row["key"], row["model"], row["requests"], row["total_tokens"]) for row in answer.json()["data"]] == [
        ("k1", "deepseek-7b", 1, 15),
        ("k1", "tiny", 1, 15),
        ("k2", "tiny", 1, 15),
    ]


def test_a_tenant_cannot_ask_for_anothers(url: str) -> None:
    assert get(url, tenant="other").status_code == 422
    assert get(url, by="tenant").json()["data"] == [
        {
            "tenant": "acme",
            "requests": 3,
            "prompt_tokens": 30,
            "cached_tokens": 15,
            "completion_tokens": 15,
            "total_tokens": 45,
            "cost": "0.0000525",
        }
    ]
    assert get(url, who="nobody/k1").json()["data"] == []


def test_an_operator_sees_everybodys_and_may_ask_for_one(url: str) -> None:
    whole = get(url, "/admin/usage", by="tenant").json()["data"]
    assert [(row["tenant"], row["requests"]) for row in whole] == [("acme", 3), ("other", 1)]
    one = get(url, "/admin/usage", by="key", tenant="other").json()["data"]
    assert [row["key"] for row in one] == ["k9"]


def test_a_report_has_days_unless_something_else_is_asked_for(url: str) -> None:
    assert [row["day"] for row in get(url).json()["data"]] == ["2025-11-25", "2025-11-26"]
    assert [row["day"] for row in get(url, since="2025-11-26").json()["data"]] == ["2025-11-26"]
    assert [row["day"] for row in get(url, until="2025-11-26").json()["data"]] == ["2025-11-25"]


def test_a_report_comes_in_pages(url: str) -> None:
    first = get(url, by="key", limit="1").json()
    second = get(url, by="key", limit="1", after=first["next"]).json()
    assert [row["key"] for row in first["data"] + second["data"]] == ["k1", "k2"]
    assert second["next"] is None


def test_a_report_is_csv_where_that_is_accepted(url: str) -> None:
    answer = get(url, accept="text/csv", by="key", limit="1")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines() == [
        "key,requests,prompt_tokens,cached_tokens,completion_tokens,total_tokens,cost",
        "k1,2,20,10,10,30,0.000035",
    ]
    assert (
        get(url, accept="text/csv", by="key", limit="1", after=answer.headers["x-next"]).text.splitlines()[1][:2]
        == "k2"
    )


@pytest.mark.parametrize("path", ["/v1/usage", "/admin/usage"])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_description_of_reports_is_true(url: str, path: str, mode: GenerationMode) -> None:
    statuses = set()
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")

    @settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(described[path]["GET"].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.headers = {"x-caller": "acme/k1"}
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    send()
    assert statuses <= {200, 414, 422}


@pytest.mark.parametrize(
    "query",
    [
        {"since": "x"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "1e3"},
        {"by": "city"},
        {"after": "x"},
        {"page": "2"},
    ],
)
def test_a_query_that_cannot_be_is_refused_by_name(url: str, query: dict[str, str]) -> None:
    answer = get(url, **query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == next(iter(query))
