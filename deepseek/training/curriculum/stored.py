"""What is done with something remembered: it is recalled first, then calculated with, converted, searched for."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from random import Random

from deepseek.training.curriculum.arithmetic import apply, plain
from deepseek.training.curriculum.paraphrase import days, lookups, notes, numbers, quantities
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.results import Made
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.trajectory import Round, Step

_EN_STORED_SUM = {
    "*": ("[what is|what's|how much is|calculate|multiply] my {k} times {b}?", "multiply my {k} by {b}.", "[take|get|look up|recall] my {k} and multiply it by {b}."), "+": ("[what is|how much is] my {k} plus {b}?", "add {b} to my {k}.", "[take|get|look up|recall] my {k} and add {b}[ to it|]."),
    "-": ("[what is|how much is] my {k} minus {b}?", "subtract {b} from my {k}.", "how much of my {k} is left after [spending|paying|using] {b}?", "[take|get|look up|recall] my {k} and subtract {b}."), "/": ("[what is|how much is] my {k} divided by {b}?", "divide my {k} by {b}.", "[take|get|look up|recall] my {k} and divide it by {b}.", "split my {k} into {b} parts."),
}  # fmt: skip
_ZH_STORED_SUM = {
    "*": ("我的{k}乘[以|]{b}是多少？", "把我的{k}乘以{b}", "[查|取出|读取|看看]我[存|保存]的{k}[，|]再乘以{b}", "我的{k}的{b}倍是多少？"), "+": ("我的{k}加[上|]{b}是多少？", "给我的{k}加{b}", "[查|取出|读取|看看]我[存|保存]的{k}[，|]再加{b}"),
    "-": ("我的{k}减[去|]{b}是多少？", "从我的{k}里[减去|扣掉]{b}", "我的{k}[花掉|用掉|去掉]{b}还剩多少？", "[查|取出|读取]我[存|保存]的{k}[，|]再减{b}"), "/": ("我的{k}除以{b}是多少？", "把我的{k}平分成{b}份", "[查|取出|读取]我[存|保存]的{k}[，|]再除以{b}"),
}  # fmt: skip
_EN_NUMBER_KEYS = (
    "budget",
    "rent",
    "salary",
    "age",
    "weight",
    "height",
    "bill",
    "savings",
    "balance",
    "debt",
    "score",
    "price",
    "target",
    "step count",
    "total",
    "income",
    "allowance",
    "tax",
    "fee",
    "lucky number",
    "distance",
    "monthly rent",
    "electricity bill",
    "account balance",
    "bonus",
    "loan",
    "hourly rate",
    "order total",
)
_ZH_NUMBER_KEYS = (
    "预算",
    "房租",
    "工资",
    "年龄",
    "体重",
    "身高",
    "账单",
    "存款",
    "余额",
    "欠款",
    "分数",
    "价格",
    "目标",
    "步数",
    "总数",
    "收入",
    "零花钱",
    "税",
    "费用",
    "幸运数字",
    "路程",
    "月租",
    "电费",
    "奖金",
    "贷款",
    "时薪",
    "总额",
)


def _number_key(rng: Random, language: Language) -> str:
    if rng.random() < 0.25:
        return notes.key(rng, language)
    return rng.choice(_EN_NUMBER_KEYS if language == "en" else _ZH_NUMBER_KEYS)


def recalled(key: str, held: str) -> Round:
    """The round that fetches it."""
    return (Step("memory_get", {"key": key}, held),)


def stored_sum(rng: Random, language: Language) -> Made:
    """Arithmetic on a stored number; where there is none, that is said."""
    key, held, b = _number_key(rng, language), numbers.everyday(rng, 5, 0.15), numbers.everyday(rng, 3, 0.15)
    if rng.random() < 0.12:  # nothing is there: nothing to calculate with
        sign = rng.choice("*+-/")
        ask = Ask(
            "",
            "",
            "memory_get",
            {"key": key},
            rng.choice(("not found", "null", f"nothing is saved as {key}")),
            f"Nothing is saved as {key}." if language == "en" else f"没有保存过{key}。",
            "",
        )
        return (
            rng.choice((_EN_STORED_SUM if language == "en" else _ZH_STORED_SUM)[sign]),
            {"k": key, "b": b},
            [(Step.of(ask),)],
            ask.answer,
        )
    if rng.random() < 0.3:
        p = str(rng.randint(1, 99))
        pattern = rng.choice(
            (
                "[what is|what's|how much is|calculate] {p}[%| percent] of my {k}?",
                "take {p}% of my {k}.",
                "[look up|recall] my {k} and [tell me|calculate|find] {p}% of it.",
            )
            if language == "en"
            else ("我的{k}的{p}%是多少？", "我的{k}的百分之{p}是多少？", "[查|取]我[存|保存]的{k}[，|]算它的{p}%")
        )
        expression, value = f"{held} * {p} / 100", plain(Decimal(held) * Decimal(p) / 100, 10)
        answer = f"The result is {value}." if language == "en" else f"结果是{value}。"
        return (
            pattern,
            {"k": key, "p": p},
            [recalled(key, held), (Step("calculate", {"expression": expression}, value),)],
            answer,
        )
    sign = rng.choice("*+-/")
    expression = f"{held} {sign} {b}"
    value = plain(apply(sign, Decimal(held), Decimal(b)), 10)
    pattern = rng.choice((_EN_STORED_SUM if language == "en" else _ZH_STORED_SUM)[sign])
    return (
        pattern,
        {"k": key, "b": numbers.spoken(rng, language, b)},
        [recalled(key, held), (Step("calculate", {"expression": expression}, value),)],
        f"{expression} = {value}",
    )


def stored_sum_kept(rng: Random, language: Language) -> Made:
    """Change a stored number and store it again."""
    english = language == "en"
    key, held, b, sign = (
        _number_key(rng, language),
        numbers.everyday(rng, 4, 0.1),
        numbers.everyday(rng, 3, 0.1),
        rng.choice("+-+-*"),
    )
    expression = f"{held} {sign} {b}"
    value = plain(apply(sign, Decimal(held), Decimal(b)), 10)
    first = rng.choice(
        (
            {
                "+": ("add {b} to my {k}", "increase my {k} by {b}", "raise my saved {k} by {b}"),
                "-": ("subtract {b} from my {k}", "reduce my {k} by {b}", "take {b} off my saved {k}"),
                "*": ("multiply my {k} by {b}",),
            }
            if english
            else {
                "+": ("把我的{k}加{b}", "给我存的{k}加上{b}", "我的{k}增加{b}"),
                "-": ("把我的{k}减{b}", "从我存的{k}里减去{b}", "我的{k}减少{b}"),
                "*": ("把我的{k}乘以{b}",),
            }
        )[sign]
    )
    second = rng.choice(
        (
            "[and|, then|, and|and then] [save|store|remember] [it again|it|the new value|the result][ as {k}| under {k}| under the same name|]",
            "[and|, then] update [it|my {k}|the {k}|the saved value]",
        )
        if english
        else (
            "[，|]再[保存|存|记][起来|一下|回去]",
            "[，|]并[保存|更新][新值|结果|它]",
            "[，|]然后[更新|存回]{k}",
            "[，|]保存结果",
        )
    )
    ask = notes.stored(rng, language, "", "", key, value)
    text = f"{first} {second}." if english else first + second
    return (
        text,
        {"k": key, "b": b},
        [recalled(key, held), (Step("calculate", {"expression": expression}, value),), (Step.of(ask),)],
        ask.answer,
    )


def stored_converted(rng: Random, language: Language) -> Made:
    """A stored quantity in another unit."""
    english = language == "en"
    dimension, value, source, target = quantities.draw(rng)
    key = (
        rng.choice(
            (
                "height",
                "weight",
                "distance",
                "commute",
                "bottle size",
                "running distance",
                "speed",
                "screen size",
                "package weight",
                "pool length",
                "oven temperature",
                "backup size",
                "break time",
                "room temperature",
                "luggage weight",
            )
            if english
            else (
                "身高",
                "体重",
                "距离",
                "路程",
                "水壶容量",
                "跑步距离",
                "速度",
                "屏幕尺寸",
                "包裹重量",
                "泳池长度",
                "烤箱温度",
                "备份大小",
                "休息时间",
                "室温",
                "行李重量",
            )
        )
        if rng.random() < 0.8
        else notes.key(rng, language)
    )
    held = f"{value}{' ' if english and rng.random() < 0.8 else ''}{quantities.unit_name(rng, language, dimension, source)}"
    pattern = rng.choice(
        (
            "convert my {k} [to|into] {t}.",
            "[what is|what's|how much is|how many {t} is] my {k} in {t}?",
            "[look up|recall|get|take] my {k} and convert it [to|into] {t}.",
            "[tell me|give me|show me] my {k} in {t}.",
            "my {k} in {t}[, please|?]",
            "how many {t} is my {k}?",
        )
        if english
        else (
            "把我的{k}[换算|转换|换]成{t}",
            "我的{k}是多少{t}？",
            "[查|取出|看看]我[存|保存]的{k}[，|]再换算成{t}",
            "我的{k}换成{t}是多少？",
            "我的{k}等于多少{t}？",
        )
    )
    ask = quantities.conversion("", "", (dimension, value, source, target))
    return (
        pattern,
        {"k": key, "t": quantities.unit_name(rng, language, dimension, target)},
        [recalled(key, held), (Step.of(ask),)],
        ask.answer,
    )


def stored_date(rng: Random, language: Language) -> Made:
    """The weekday of a stored date, the days until it, or a day before or after."""
    english = language == "en"
    day = days.any_day(rng)
    key = rng.choice(
        (
            "deadline",
            "birthday",
            "exam date",
            "wedding date",
            "trip",
            "appointment",
            "flight date",
            "anniversary",
            "due date",
            "start date",
            "project deadline",
            "visa expiry",
            "moving day",
            "party",
            "checkup",
        )
        if english
        else (
            "截止日期",
            "生日",
            "考试日期",
            "婚礼日期",
            "旅行日期",
            "预约日期",
            "航班日期",
            "纪念日",
            "到期日",
            "开工日期",
            "项目截止日",
            "签证到期日",
            "搬家日",
            "聚会日期",
            "体检日期",
        )
    )
    form = rng.choice(("weekday", "until", "after", "before"))
    count, shown = days.some_days(rng, language)
    if form == "weekday":
        pattern = rng.choice(
            (
                "[what|which] [day of the week|weekday|day] is my {k}?",
                "on [what|which] [day of the week|weekday] [is|does] my {k}[ fall|]?",
                "[look up|recall] my {k} and tell me [the weekday|which day of the week it is|what day it falls on].",
            )
            if english
            else (
                "我的{k}是[星期|周|礼拜]几？",
                "[查|看看]我[存|保存|记]的{k}是[星期|周]几",
                "我[存|记]的{k}[，|]那天是星期几？",
            )
        )
        second = days.answered(rng, language, "", "", "weekday", day, day, 0, False)
    elif form == "until":
        pattern = rng.choice(
            (
                "how many days [until|till|to|are left until|before] my {k}?",
                "how long [is it |]until my {k}?",
                "how many days are left until my {k}?",
                "[look up|recall] my {k} and count the days until then.",
                "days until my {k}",
            )
            if english
            else (
                "[离|距|距离]我的{k}还有[多少|几]天？",
                "[今天|现在]到我的{k}还有几天？",
                "我的{k}还有[多少|几]天[到|]？",
                "[查|看看]我[存|记]的{k}[，|]还有几天",
            )
        )
        ago = day - timedelta(days=rng.randint(1, 400))
        second = days.answered(rng, language, "", "", "diff", ago, day, 0, True)
    else:
        sign = 1 if form == "after" else -1
        word = ("after" if sign > 0 else "before") if english else ("后" if sign > 0 else "前")
        pattern = rng.choice(
            (
                f"[what|which] [date|day] is {{n}} {word} my {{k}}?",
                f"[what's|give me|tell me] the date {{n}} {word} my {{k}}.",
                f"when is {{n}} {word} my {{k}}?",
            )
            if english
            else (f"我的{{k}}[之|]{word}{{n}}是[哪天|几号]？", f"我的{{k}}{word}{{n}}是[哪一天|什么日期]？")
        )
        second = days.answered(rng, language, "", "", form, day, day, count, False)
    return pattern, {"k": key, "n": shown}, [recalled(key, day.isoformat()), (Step.of(second),)], second.answer


def stored_searched(rng: Random, language: Language) -> Made:
    """A web search for something stored."""
    english = language == "en"
    key, held = notes.key(rng, language), lookups.query(rng, language)
    pattern = rng.choice(
        (
            "[search|search the web|look online] for my {k}.",
            "[google|look up] my {k} [online|on the web|on the internet].",
            "[recall|take|get] my {k} and [search for it|google it|look it up online|search the web for it].",
            "find [information|something|news] [online |on the web |]about my {k}.",
        )
        if english
        else (
            "[搜索|上网搜|网上查]我的{k}",
            "[上网|在网上]查一下我的{k}",
            "[取出|查出|回忆]我[存|保存]的{k}[，|]再[上网搜一下|搜索|百度一下]",
            "[帮我|]搜一下我[存|记]的{k}",
        )
    )
    ask = lookups.found(rng, language, "", "", held, always=True)
    return pattern, {"k": key}, [recalled(key, held), (Step.of(ask),)], ask.answer
