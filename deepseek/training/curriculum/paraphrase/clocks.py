"""The time of day, here or in a place that the user names."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import dates
from deepseek.training.curriculum.paraphrase import days, lexicon
from deepseek.training.curriculum.paraphrase.frames import Ways, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, say
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.sample import Language

_ZONES = (
    "Tokyo", "London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Dublin", "Athens", "Cairo", "Nairobi", "Lagos", "Mumbai", "Delhi", "Seoul", "Shanghai", "Singapore", "Bangkok", "Jakarta", "Sydney", "Melbourne", "Toronto", "Chicago", "New York", "Los Angeles", "Denver", "Lima", "Bogota",
    "Moscow", "Istanbul", "Dubai", "Hong Kong", "Taipei", "Manila", "Karachi", "Dhaka", "Lisbon", "Prague", "Warsaw", "Budapest", "Stockholm", "Helsinki", "Copenhagen", "Brussels", "Amsterdam", "Zurich", "Honolulu", "Anchorage", "Auckland", "Perth", "UTC", "GMT", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Asia/Shanghai", "UTC+2", "UTC-5",
)  # fmt: skip
_ZH_ZONES = (
    "北京",
    "上海",
    "香港",
    "台北",
    "东京",
    "首尔",
    "新加坡",
    "伦敦",
    "巴黎",
    "柏林",
    "莫斯科",
    "悉尼",
    "纽约",
    "洛杉矶",
    "旧金山",
    "中国",
    "日本",
)
EN: Ways = {
    "what": ("the time [now|right now|please|]", "the current time", "the time of day"),
    "do": ("tell me the [current |exact |]time", "check the [time|clock]", "look at the clock", "give me the [current |]time"),
    "tell": ("what time is it[ now| right now| please|]?", "what[ is|'s] the [current |exact |]time[ now| right now|]?", "do you [have|know] the time?", "[current |]time[ please| now|]?", "how late is it?", "what does the clock say?", "can you tell me [what time it is|the time]?", "is it [late|noon|midnight|evening] [already|yet]?"),
}  # fmt: skip
EN_THERE: Ways = {
    "what": ("the [current |local |]time in {z}", "the time in {z} [now|right now]"),
    "do": ("tell me the [current |local |]time in {z}", "check [what time it is|the time] in {z}", "give me the time in {z}", "look up the [local |current |]time in {z}"),
    "tell": ("what time is it in {z}[ now| right now|]?", "what[ is|'s] the [current |local |]time in {z}?", "[current |]time in {z}[ please|?]", "how late is it in {z}?", "in {z}, what time is it?", "what time do they have in {z}[ now|]?", "what does the clock say in {z}?", "do you know what time it is in {z}?", "{z} time[ now| please|]?", "is it [night|day|late|early] in {z}[ now|]?"),
}  # fmt: skip
ZH: Ways = {
    "what": ("现在的时间", "当前时间", "此刻的时间"),
    "do": ("[看|查|报|告诉我]一下[现在的|当前|]时间", "看看[现在几点|时间]"),
    "tell": ("[现在|这会儿|此刻|][是|]几点[了|钟|]？", "现在[是|]什么时间？", "[当前|现在]时间[是多少|]？", "几点[了|钟了|啦]？", "现在[几时|多晚]了？", "[知道|看看]现在几点[吗|]？"),
}  # fmt: skip
ZH_THERE: Ways = {
    "what": ("{z}[现在的|当前|的|当地]时间", "{z}现在的时间"),
    "do": ("[查|看|告诉我]一下{z}[现在的|当前|]时间", "看看{z}现在几点", "[查|报]{z}时间"),
    "tell": ("{z}[现在|这会儿|此刻|][是|]几点[了|钟|]？", "[现在|]{z}[是|]几点？", "{z}[当地|]现在[是|]什么时间？", "{z}[当前|当地|]时间[是多少|]？", "[你知道|请问]{z}现在几点[吗|]？", "{z}那边[现在|]几点了？", "{z}现在是[白天|晚上|半夜]吗？"),
}  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """What time it is, and the tool's one line: date, time, weekday, zone."""
    english = language == "en"
    there = rng.random() < 0.55
    ways = (EN_THERE if there else EN) if english else (ZH_THERE if there else ZH)
    zone = rng.choice((*_ZONES, rng.choice(lexicon.EN_PROPER)) if english or rng.random() < 0.1 else _ZH_ZONES)
    if not english and rng.random() < 0.2:
        zone = rng.choice(lexicon.ZH_MORE_PLACES)
    template = say(rng, language, lambda: framed(rng, language, ways, (3, 2, 6)), frozenset(), withheld)
    text = dress_up(rng, language, template, bare, z=zone)
    day = days.any_day(rng)
    clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    weekday = dates.WEEKDAYS["en" if rng.random() < 0.7 else language][day.weekday()]
    where, offset = rng.choice((("UTC", "+00:00"), ("Europe/Berlin", "+01:00"), ("Asia/Shanghai", "+08:00"), ("Asia/Tokyo", "+09:00"), ("America/New_York", "-05:00"), ("Europe/London", "+00:00"), ("CET", "+01:00")))  # fmt: skip
    result = f"{day.isoformat()} {clock} {weekday} {where} (UTC{offset})"
    answer = f"It is {clock} ({day.isoformat()})." if english else f"现在是{clock}（{day.isoformat()}）。"
    return Ask(
        text,
        f"wide/clock/{'there' if there else 'here'}",
        "clock",
        {"zone": zone} if there else {},
        result,
        answer,
        clock,
    )
