"""The tools `date` and `clock`, on a day that is held fast."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolRetry
from deepseek.agent.tools.dates import clock_tool, date_tool, read_date, read_zone
from deepseek.agent.tools.places import PLACES
from deepseek.training.curriculum import dates as curriculum

NOW = datetime(2026, 2, 27, 23, 30, tzinfo=UTC)
ENGLISH, CHINESE = ToolContext(), ToolContext(metadata={"language": "zh-CN"})


def _now() -> datetime:
    return NOW


calendar = date_tool(_now)
clock = clock_tool(_now)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_curriculums_questions_get_the_curriculums_answers(language: str) -> None:
    rng = Random(7)
    for _ in range(500):
        ask = curriculum.ask(rng, language, False)  # type: ignore[arg-type]
        if ask.arguments["date"] == "today":
            continue
        operation = ask.operation.removeprefix("date_")
        context = CHINESE if language == "zh" else ENGLISH

        assert calendar(operation, **ask.arguments, context=context) == ask.result


@given(st.dates(), st.integers(-(10**6), 10**6))
def test_adding_days_is_what_the_calendar_does(day: date, days: int) -> None:
    try:
        expected = (day + timedelta(days=days)).isoformat()
    except OverflowError:
        with pytest.raises(ToolRetry, match="out of range"):
            calendar("add", day.isoformat(), days)
    else:
        assert calendar("add", day.isoformat(), days) == expected


@given(st.dates(), st.dates())
def test_a_difference_added_is_the_second_date(first: date, second: date) -> None:
    difference = calendar("diff", first.isoformat(), end=second.isoformat())

    assert calendar("add", first.isoformat(), int(difference)) == second.isoformat()


def test_today_is_the_clocks_day() -> None:
    assert calendar("add", "today", 3) == "2026-03-02"
    assert calendar("diff", "today", end="2026-03-01") == "2"
    assert calendar("weekday", "今天", context=CHINESE) == "星期五"
    assert calendar("diff", "yesterday", end="明天") == "2"


@pytest.mark.parametrize(
    "text",
    ["2024-02-29", "2024/2/29", "2024.02.29", "2024年2月29日", "2024年2月29号", "February 29, 2024", "29 Feb 2024", "Feb. 29th 2024",
     "2024-02-29T10:00:00Z", "２０２４-02-29"],
)  # fmt: skip
def test_dates_as_people_write_them(text: str) -> None:
    assert read_date(text, _now) == date(2024, 2, 29)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "2023-02-29", 1), "there is no such day"),
        (("add", "soon", 1), "not a date: 'soon'"),
        (("add", "2024-01-01"), "days is missing"),
        (("diff", "2024-01-01"), "end is missing"),
        (("add", "2024-01-01", 10**30), "out of range"),
        (("add", "9999-12-31", 1), "out of range"),
        (("weekday", "x" * 10**6), "not a date"),
        (("weekday", "Foo 12 2024"), "there is no such day"),
    ],
)
def test_what_is_no_date_is_said(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(ToolRetry, match=said):
        calendar(*arguments)


def test_the_clock_says_when_it_is_where() -> None:
    assert clock() == "2026-02-27 23:30 Friday UTC (UTC+00:00)"
    assert clock("Europe/Berlin") == "2026-02-28 00:30 Saturday Europe/Berlin (UTC+01:00)"
    assert clock("new york") == "2026-02-27 18:30 Friday America/New_York (UTC-05:00)"
    assert clock("北京", CHINESE) == "2026-02-28 07:30 星期六 Asia/Shanghai (UTC+08:00)"
    assert clock("UTC+5:30") == "2026-02-28 05:00 Saturday UTC+05:30 (UTC+05:30)"


def test_the_clock_keeps_summer_time() -> None:
    summer = clock_tool(lambda: datetime(2026, 7, 1, 12, tzinfo=UTC))

    assert summer("Europe/Berlin").endswith("14:00 Wednesday Europe/Berlin (UTC+02:00)")


@pytest.mark.parametrize(
    ("name", "said"),
    [("Europe/Berlim", "perhaps Europe/Berlin"), ("../../etc/passwd", "unknown"), ("+99", "no time zone")],
)
def test_a_zone_that_is_none_is_said(name: str, said: str) -> None:
    with pytest.raises(ToolRetry, match=said):
        read_zone(name)


@pytest.mark.parametrize(
    ("place", "zone"),
    [
        ("Mumbai", "Asia/Kolkata"),
        ("San Francisco", "America/Los_Angeles"),
        ("日本", "Asia/Tokyo"),
        ("Istanbul", "Europe/Istanbul"),
    ],
)
def test_places_that_name_no_zone_are_known_too(place: str, zone: str) -> None:
    assert read_zone(place) == ZoneInfo(zone)


def test_every_place_keeps_the_time_of_its_zone() -> None:
    for zone, places in PLACES.items():
        for place in places.split():
            for month in (1, 7):
                moment = datetime(2026, month, 1, tzinfo=UTC)
                assert (
                    moment.astimezone(read_zone(place)).utcoffset() == moment.astimezone(ZoneInfo(zone)).utcoffset()
                ), place


def test_zones_are_those_of_the_database() -> None:
    assert read_zone("asia/tokyo") == ZoneInfo("Asia/Tokyo")
