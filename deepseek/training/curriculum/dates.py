"""Dates: days added or taken away, days between two dates, the day of the week. Dates are passed as ``YYYY-MM-DD``.

``today`` is passed as the word itself, in both languages: only the tool knows the day.
"""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

EN = {
    "after": (
        "What date is {n} days after {d}?", "Add {n} days to {d}.", "{d} plus {n} days", "What is the date {n} days from {d}?", "Which day comes {n} days after {d}?",
        "Starting at {d}, what date is it {n} days later?", "{n} days after {d}", "My contract starts on {d} and runs {n} days. When does it end?",
        "Give me the date {n} days past {d}.", "If today is {d}, what date is it in {n} days?", "Move {d} forward by {n} days", "Count {n} days on from {d}.",
        "The parcel left on {d} and takes {n} days. When does it arrive?", "When is {d} + {n} days?", "From {d}, go {n} days ahead.",
    ),
    "before": (
        "What date is {n} days before {d}?", "Subtract {n} days from {d}.", "{d} minus {n} days", "What was the date {n} days before {d}?", "Which date lies {n} days before {d}?",
        "Go back {n} days from {d}", "{n} days before {d}", "The exam is on {d}; I must start {n} days earlier. When is that?", "Give me the date {n} days prior to {d}.",
        "Move {d} back by {n} days.",
    ),
    "diff": (
        "How many days are there between {d} and {e}?", "Days from {d} to {e}", "How long is it from {d} until {e}?", "Count the days between {d} and {e}.",
        "What is the difference in days between {d} and {e}?", "How many days from {d} to {e}?", "I started on {d} and finished on {e}. How many days was that?",
        "Tell me the number of days from {d} until {e}", "How far apart are {d} and {e}?", "From {d} to {e}: how many days?", "Between {d} and {e}, how many days pass?",
        "We leave on {d} and return on {e}. How many days is the trip?", "Compute the days between {d} and {e}", "How many days lie between {d} and {e}?",
        "Number of days: {d} until {e}",
    ),
    "weekday": (
        "What day of the week is {d}?", "Which weekday is {d}?", "What weekday does {d} fall on?", "Is {d} a Monday or some other day?", "Tell me the day of the week of {d}.",
        "{d} is what day of the week?", "Find the weekday of {d}", "On which day of the week does {d} fall?", "I was born on {d}. What day of the week was it?",
        "Weekday of {d}?", "What day is {d}?", "My wedding is on {d}; which day of the week is that?", "Give me the weekday for {d}.", "Does {d} fall on a weekend? Which day is it?",
        "Day of the week for {d}",
    ),
}  # fmt: skip
ZH = {
    "after": (
        "{d}之后{n}天是哪一天？", "{d}加{n}天是几号", "{d}往后{n}天是什么日期？", "{d}过{n}天是哪天", "从{d}开始，{n}天后是几月几号？", "{d}再过{n}天", "{d}后的第{n}天是哪天？", "合同从{d}起{n}天到期，是哪天？",
        "帮我算{d}加上{n}天的日期", "如果今天是{d}，{n}天后是哪天？", "把{d}推后{n}天", "请问{d}的{n}天后是几号", "包裹{d}寄出，{n}天到，哪天到？", "{n}天后，从{d}算起，是哪天？", "{d}延后{n}天是哪一天",
    ),
    "before": (
        "{d}之前{n}天是哪一天？", "{d}减{n}天是几号", "{d}往前{n}天是什么日期？", "{d}的{n}天前是哪天", "从{d}倒推{n}天是几月几号？", "{d}提前{n}天是哪天？", "考试在{d}，提前{n}天开始复习，是哪天？",
        "把{d}往前推{n}天", "请问{d}前{n}天是几号", "{d}减去{n}天的日期",
    ),
    "diff": (
        "{d}到{e}有多少天？", "{d}和{e}相差几天", "从{d}到{e}一共几天？", "计算{d}与{e}之间的天数", "{d}距离{e}多少天？", "{d}至{e}是多少天", "我{d}出发，{e}回来，一共多少天？", "帮我数一下{d}到{e}的天数",
        "{d}和{e}之间隔了几天", "{d}开始，{e}结束，共几天？", "请问{d}到{e}隔多少天", "从{d}算到{e}有几天", "{d}与{e}差多少天？", "求{d}到{e}的间隔天数", "{e}离{d}有多少天",
    ),
    "weekday": (
        "{d}是星期几？", "{d}是周几", "{d}那天星期几？", "请问{d}是礼拜几", "查一下{d}是星期几", "{d}星期几", "告诉我{d}是周几", "我{d}出生，那天是星期几？", "{d}是不是周末？是星期几？", "帮我看看{d}是周几",
        "算一下{d}是星期几", "婚礼在{d}，是星期几？", "{d}对应星期几", "{d}是一周中的哪一天？", "想知道{d}是礼拜几",
    ),
}  # fmt: skip
# Asked of the day the tool knows: `today` is passed on.
EN_TODAY = {
    "after": (
        "What date is it in {n} days?", "What is the date {n} days from today?", "{n} days from now", "Which day is {n} days after today?", "Today plus {n} days",
        "Add {n} days to today.", "Give me the date in {n} days.", "When is {n} days from now?", "What will the date be {n} days from today?", "My holiday is in {n} days. What date is that?",
    ),
    "before": (
        "What date was it {n} days ago?", "{n} days before today", "What was the date {n} days ago?", "Go back {n} days from today.", "Today minus {n} days",
        "Which date was {n} days before today?", "Give me the date {n} days ago.", "I bought it {n} days ago. Which date was that?",
    ),
    "diff": (
        "How many days until {e}?", "How many days are left until {e}?", "Days from today to {e}", "How long is it until {e}?", "Count the days from today until {e}.",
        "How far away is {e}?", "How many days from now to {e}?", "My trip starts on {e}. How many days are left?",
    ),
    "weekday": (
        "What day of the week is today?", "Which weekday is it today?", "What day is today?", "Is today a Monday or another day?", "Tell me today's weekday.",
        "What day of the week is it?", "Weekday of today?", "Do you know what day it is today?",
    ),
}  # fmt: skip
ZH_TODAY = {
    "after": (
        "{n}天后是几号？", "今天之后{n}天是哪一天？", "从今天起{n}天后是什么日期", "再过{n}天是几月几号？", "今天加{n}天", "{n}天以后是哪天？", "今天往后{n}天是几号", "我{n}天后放假，是哪天？",
        "算一下{n}天后的日期", "今天再过{n}天",
    ),
    "before": ("{n}天前是几号？", "今天之前{n}天是哪一天？", "从今天倒推{n}天是什么日期", "今天减{n}天", "{n}天以前是哪天？", "今天往前{n}天是几号", "我{n}天前买的，是哪天？", "算一下{n}天前的日期"),
    "diff": ("离{e}还有多少天？", "今天到{e}有几天", "距离{e}还有几天？", "还有多少天到{e}", "从今天到{e}一共几天？", "今天离{e}多少天？", "我{e}出发，还剩几天？", "数一下今天到{e}的天数"),
    "weekday": ("今天是星期几？", "今天周几", "今天是礼拜几？", "请问今天星期几", "告诉我今天是周几", "今天是不是周末？是星期几？", "查一下今天是星期几", "你知道今天是周几吗？"),
}  # fmt: skip
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WEEKDAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
}


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """One question about one or two dates."""
    english = language == "en"
    form = rng.choice(("after", "before", "diff", "weekday"))
    day = date(1950, 1, 1) + timedelta(days=rng.randrange(32000))
    later = day + timedelta(days=rng.randint(1, 900))
    count = rng.randint(1, rng.choice((30, 100, 1000)))
    today = rng.random() < 0.12
    groups = (EN_TODAY if english else ZH_TODAY) if today else (EN if english else ZH)
    text, phrasing = compose(
        rng,
        language,
        f"dates/{form}{'/today' if today else ''}",
        groups[form],
        withheld,
        d=_written(rng, language, day),
        e=_written(rng, language, later),
        n=str(count),
    )
    passed = "today" if today else day.isoformat()
    if form == "diff":
        days = str((later - day).days)
        answer = f"There are {days} days between them." if english else f"两个日期相差{days}天。"
        return Ask(text, phrasing, "date_diff", {"date": passed, "end": later.isoformat()}, days, answer, days)
    if form == "weekday":
        weekday = WEEKDAYS[language][day.weekday()]
        answer = f"It is a {weekday}." if english else f"那天是{weekday}。"
        return Ask(text, phrasing, "date_weekday", {"date": passed}, weekday, answer, weekday)
    offset = count if form == "after" else -count
    result = (day + timedelta(days=offset)).isoformat()
    answer = f"The date is {result}." if english else f"日期是{result}。"
    return Ask(text, phrasing, "date_add", {"date": passed, "days": offset}, result, answer, result)


def _written(rng: Random, language: Language, day: date) -> str:
    if rng.random() < 0.5:
        return day.isoformat()
    if language == "zh":
        return rng.choice(
            (
                f"{day.year}年{day.month}月{day.day}日",
                f"{day.year}年{day.month}月{day.day}号",
                f"{day.year}/{day.month}/{day.day}",
            )
        )
    month = MONTHS[day.month - 1]
    return rng.choice(
        (f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{month[:3]} {day.day}, {day.year}")
    )
