"""Dates and the time of day, in the proleptic Gregorian calendar, years 1 to 9999.

`date` is the tool the built-in model knows; `clock` says what time it is somewhere (zones by their IANA names). Both
take the time from a function, so that a recorded run can be played again on the day it was recorded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from difflib import get_close_matches
from functools import cache
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolRetry
from deepseek.agent.tools.places import PLACES

Now = Callable[[], datetime]
"""What time it is, with a zone: `today` is the day in that zone."""

_MAX_DAYS = 3_652_058  # from the first day of the calendar to the last
WEEKDAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_RELATIVE = {
    "today": 0, "now": 0, "今天": 0, "今日": 0, "tomorrow": 1, "明天": 1, "yesterday": -1, "昨天": -1, "后天": 2, "前天": -2,
}  # fmt: skip
_FORMS = (
    re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?:[T ].*)?"),
    re.compile(r"(?P<year>\d{4})年(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]?"),
    re.compile(r"(?P<name>[A-Za-z]{3,9})\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})"),
    re.compile(r"(?P<day>\d{1,2})(?:st|nd|rd|th)? (?P<name>[A-Za-z]{3,9})\.?,? (?P<year>\d{4})"),
)
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?(\d{2}))?")


def local_now() -> datetime:
    """This machine's time, in its own zone."""
    return datetime.now().astimezone()


def date_tool(now: Now) -> Callable[..., str]:
    """The tool `date`: date arithmetic, relative to that clock's day where it says today."""

    def date(
        op: Literal["add", "diff", "weekday"],
        date: str,
        days: int | None = None,
        end: str | None = None,
        context: ToolContext | None = None,
    ) -> str:
        """Date arithmetic"""
        start = read_date(date, now)
        if op == "weekday":
            return weekday(start, context)
        if op == "diff":
            if end is None:
                raise ToolRetry("end is missing: the second date")
            return str((read_date(end, now) - start).days)
        if days is None:
            raise ToolRetry("days is missing: how many to add")
        if abs(days) > _MAX_DAYS:
            raise ToolRetry("out of range", found=f"{days} days")
        try:
            return (start + timedelta(days=days)).isoformat()
        except OverflowError:
            raise ToolRetry("out of range", expected="a date in the years 1 to 9999") from None

    return date


def clock_tool(now: Now) -> Callable[..., str]:
    """The tool `clock`: what time it is."""

    def clock(zone: str | None = None, context: ToolContext | None = None) -> str:
        """Current date and time in a time zone"""
        moment = now()
        if zone is not None and zone.strip().casefold() not in ("", "local", "here", "本地"):
            moment = moment.astimezone(read_zone(zone))
        offset = moment.strftime("%z")
        name = getattr(moment.tzinfo, "key", None) or moment.tzname()
        return f"{moment:%Y-%m-%d %H:%M} {weekday(moment.date(), context)} {name} (UTC{offset[:3]}:{offset[3:5]})"

    return clock


def weekday(day: date, context: ToolContext | None) -> str:
    """Its name, in Chinese where the run's metadata says that its language is that."""
    language = "" if context is None else context.metadata.get("language", "")
    return WEEKDAYS["zh" if language.startswith("zh") else "en"][day.weekday()]


def read_date(text: str, now: Now) -> date:
    """`2026-03-01`, as people write it, or `today`. Raises ToolRetry."""
    plain = " ".join(unicodedata.normalize("NFKC", text[:60]).split())
    shift = _RELATIVE.get(plain.casefold())
    if shift is not None:
        return now().date() + timedelta(days=shift)
    for form in _FORMS:
        found = form.fullmatch(plain)
        if found is not None:
            parts = found.groupdict()
            month = _month(parts["name"]) if "name" in parts else int(parts["month"])
            try:
                return date(int(parts["year"]), month, int(parts["day"]))
            except ValueError:
                raise ToolRetry(f"there is no such day: {plain}") from None
    raise ToolRetry(f"not a date: {plain[:40]!r}", expected="YYYY-MM-DD or today")


def _month(name: str) -> int:
    short = name[:3].casefold()
    return _MONTHS.index(short) + 1 if short in _MONTHS else 0


def read_zone(name: str) -> tzinfo:
    """A zone of the IANA database by its name, the last part of it, or an offset from UTC. Raises ToolRetry."""
    plain = name.strip()[:60]
    if plain.upper() in ("UTC", "GMT", "Z"):
        return UTC
    offset = _OFFSET.fullmatch(plain)
    if offset is not None:
        return _fixed(plain, offset)
    found = _zones().get(plain.casefold().replace(" ", "_"))
    if found is not None:
        return ZoneInfo(found)
    near = get_close_matches(plain.casefold().replace(" ", "_"), _zones(), n=3, cutoff=0.75)
    meant = ", ".join(dict.fromkeys(_zones()[other] for other in near))
    raise ToolRetry(f"unknown time zone {plain[:40]!r}", expected=f"perhaps {meant}" if meant else "like Europe/Berlin")


def _fixed(text: str, offset: re.Match[str]) -> tzinfo:
    sign, hours, minutes = offset[1], int(offset[2]), int(offset[3] or 0)
    if hours > 14 or minutes > 59:
        raise ToolRetry(f"there is no time zone {text}")
    return timezone(timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1))


@cache
def _zones() -> dict[str, str]:
    """Names of zones in small letters, and their cities where only one zone has it."""
    zones = {name.casefold(): name for name in sorted(available_timezones())}
    by_city: dict[str, list[str]] = {}
    for name in zones.values():
        if "/" in name and not name.startswith(("Etc/", "SystemV/", "US/")):
            by_city.setdefault(name.rsplit("/", 1)[1].casefold(), []).append(name)
    for city, names in by_city.items():
        if len(names) == 1:
            zones.setdefault(city, names[0])
    for name, places in PLACES.items():
        for place in places.split():
            zones.setdefault(place, name)
    return zones
