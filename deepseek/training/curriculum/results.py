"""What is done with a result: it is calculated with, converted, saved, asked for its weekday."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from random import Random

from deepseek.training.curriculum import units, words
from deepseek.training.curriculum.arithmetic import apply, plain
from deepseek.training.curriculum.paraphrase import days, notes, numbers, quantities
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.several import WIDE
from deepseek.training.curriculum.trajectory import Round, Step

# What is done to a result. {r} is the way it is spoken of; <op> is one of these, by sign.
_EN_OPS: dict[str, tuple[str, ...]] = {
    "*": ("multiply {r} by {b}", "multiply {r} with {b}", "take {r} times {b}"), "+": ("add {b} to {r}", "add {b}", "increase {r} by {b}", "put {b} on top"),
    "-": ("subtract {b} from {r}", "take {b} away from {r}", "take away {b}", "subtract {b}", "reduce {r} by {b}"), "/": ("divide {r} by {b}", "split {r} by {b}", "divide by {b}", "share {r} among {b}"), "2": ("double {r}",), "0.5": ("halve {r}", "take half of {r}"),
}  # fmt: skip
_ZH_OPS: dict[str, tuple[str, ...]] = {
    "*": ("把{r}乘以{b}", "乘以{b}", "{r}乘{b}", "把{r}乘{b}", "将{r}扩大{b}倍"), "+": ("把{r}加上{b}", "加{b}", "加上{b}", "给{r}加{b}", "{r}加{b}"),
    "-": ("把{r}减去{b}", "减{b}", "减去{b}", "从{r}里减{b}", "{r}减{b}"), "/": ("把{r}除以{b}", "除以{b}", "{r}除以{b}", "把{r}平分成{b}份"), "2": ("把{r}翻倍", "把{r}乘二"), "0.5": ("把{r}减半", "取{r}的一半"),
}  # fmt: skip
_EN_IT = ("it", "that", "the result", "the answer", "this", "the number", "what you get", "the outcome")
_ZH_IT = ("结果", "它", "得数", "这个数", "答案", "得到的数")
_EN_THEN = (
    " and ",
    " and then ",
    ", then ",
    ". Then ",
    ", and ",
    ". Now ",
    "; then ",
    ". After that, ",
    ", afterwards ",
    ". Next, ",
    " then ",
    ". Finally ",
)
_ZH_THEN = ("，然后", "，再", "，并", "，接着", "。然后", "，之后", "，最后", "再", "，并且", "后", "，")
_EN_KEEP = (
    "[save|store|remember|keep|note|record] {r} [as|under] {k}",
    "[save|store|remember|keep|note] {r} [as|under] [my|the] {k}",
    "[save|remember|note] {r} [under the name|with the key|as the value of] {k}",
    "[put|write] {r} [in memory|down|in your memory] as {k}",
    "remember {r} for me as {k}",
    "set [my|the|] {k} to {r}",
)
_ZH_KEEP = (
    "把{r}[保存|存|记|记录][为|成|作]{k}",
    "[保存|存|记][为|成|作]{k}",
    "把{r}存到{k}[里|]",
    "将{r}记在{k}[下|里|]",
    "用{k}[这个名字|]保存{r}",
    "存起来，[叫|名字叫|名为]{k}",
    "把{k}设[为|成]{r}",
)

Made = tuple[str, dict[str, str], list[Round], str]
"""A pattern, its slots, the rounds and the answer; the pattern may hold choices."""


def _joined(rng: Random, language: Language, first: str, second: str) -> str:
    """``first``, then ``second``, as one text."""
    end = rng.choice((".", "", "?", "")) if language == "en" else rng.choice(("。", "", "？", ""))
    text = first.rstrip(".?!。？！") + rng.choice(_EN_THEN if language == "en" else _ZH_THEN) + second + end
    if language == "en":
        text = re.sub(r"(\. (?:Then|Now|Finally|Next,|After that,) )(\w)", lambda m: m[1] + m[2].lower(), text)
    return text


def change(rng: Random, language: Language, result: str) -> tuple[str, dict[str, str], Step, str]:
    """Arithmetic on the result before: the words for it, their slots, the call and its answer."""
    sign = rng.choice(("*", "+", "-", "/", "*", "+", "-", "/", "2", "0.5"))
    it, ops = (_EN_IT, _EN_OPS) if language == "en" else (_ZH_IT, _ZH_OPS)
    words_ = rng.choice(ops[sign]).replace("{r}", rng.choice(it))
    b = {"2": "2", "0.5": "2"}.get(sign) or numbers.everyday(rng, 3, 0.15)
    sign = {"2": "*", "0.5": "/"}.get(sign, sign)
    expression = f"{result} {sign} {b}"
    value = plain(apply(sign, Decimal(result), Decimal(b)), 10)
    return (
        words_,
        {"b": numbers.spoken(rng, language, b)},
        Step("calculate", {"expression": expression}, value),
        f"{expression} = {value}",
    )


def keep(rng: Random, language: Language, held: str, it: str = "") -> tuple[str, dict[str, str], Step, str]:
    """Saving the result before: the words for it, their slots, the call and its answer."""
    key = notes.key(rng, language)
    pattern = rng.choice(_EN_KEEP if language == "en" else _ZH_KEEP)
    pattern = pattern.replace("{r}", it or rng.choice(_EN_IT if language == "en" else _ZH_IT))
    ask = notes.stored(rng, language, "", "", key, held)
    return pattern, {"k": key}, Step.of(ask), ask.answer


def _first_number(rng: Random, language: Language) -> tuple[Ask, str]:
    """A bare request whose result is a number, and that number."""
    family = rng.choice(("units", "arithmetic", "percentages", "units", "dates"))
    while True:
        ask = WIDE[family](rng, language, False, True)
        if re.fullmatch(r"-?\d{1,9}(\.\d{1,6})?", ask.result):
            return ask, ask.result


def number_then_change(rng: Random, language: Language) -> Made:
    """A number by some tool, then arithmetic on it."""
    ask, result = _first_number(rng, language)
    then, slots, step, answer = change(rng, language, result)
    return (
        _joined(rng, language, "{first}", then),
        {"first": ask.text.rstrip(".?!。？！ "), **slots},
        [(Step.of(ask),), (step,)],
        answer,
    )


def anything_then_keep(rng: Random, language: Language) -> Made:
    """Some tool, then its result is saved."""
    while True:
        ask = WIDE[rng.choice(("arithmetic", "percentages", "units", "dates", "dates", "search", "arithmetic"))](
            rng, language, False, True
        )
        held = ask.fact if ask.operation == "search" else ask.result
        if ask.operation != "date_weekday" and ask.result != "no results":
            break
    it = rng.choice(("the date", "that date", "it", "that")) if ask.operation == "date_add" and language == "en" else ""
    if ask.operation == "search":
        it = (
            rng.choice(("what you find", "the result", "the first result", "it", "that"))
            if language == "en"
            else rng.choice(("结果", "找到的内容", "第一条结果", "它"))
        )
    then, slots, step, answer = keep(rng, language, held, it)
    return (
        _joined(rng, language, "{first}", then),
        {"first": ask.text.rstrip(".?!。？！ "), **slots},
        [(Step.of(ask),), (step,)],
        answer,
    )


def number_change_keep(rng: Random, language: Language) -> Made:
    """A number, arithmetic on it, and what comes out is saved."""
    ask, result = _first_number(rng, language)
    then, slots, step, _ = change(rng, language, result)
    last, more, save, answer = keep(rng, language, step.result)
    text = (
        "{first}"
        + rng.choice((", ", ", then ", ". Then ", " and "))
        + then
        + rng.choice((" and ", ", and ", ", then ", " and then ", ". Finally, "))
        + last
    )
    if language == "zh":
        text = (
            "{first}"
            + rng.choice(("，", "，再", "，然后", "。再"))
            + then
            + rng.choice(("，", "，再", "，最后", "，并", "，然后"))
            + last
        )
    return (
        text + rng.choice(("", "。" if language == "zh" else ".")),
        {"first": ask.text.rstrip(".?!。？！ "), **slots, **more},
        [(Step.of(ask),), (step,), (save,)],
        answer,
    )


_EN_WEEKDAY_AFTER = (
    "[what|which] [day of the week|weekday|day] [is|will be|was] [the day |] {n} after {d}?",
    "[what|which] [weekday|day of the week] [is it|will it be] {n} after {d}?",
    "{n} after {d}, [what|which] [weekday|day of the week] is that?",
    "what's the date {n} after {d}, and [what|which] [weekday|day of the week] is [it|that]?",
    "add {n} to {d} and tell me the [weekday|day of the week].",
    "[find|tell me|give me] the [weekday|day of the week] of the day {n} after {d}.",
    "on [what|which] [weekday|day of the week] does the day {n} after {d} fall?",
    "if I wait {n} from {d}, [what|which] day of the week is it then?",
    "[my|the] [contract|course|trial] starts on {d} and runs for {n}. On which [weekday|day of the week] does it end?",
)
_ZH_WEEKDAY_AFTER = (
    "{d}[之|以|]后{n}是[星期|周|礼拜]几？",
    "{d}再过{n}是[星期|周]几？",
    "从{d}起{n}后[那天|]是[星期|周|礼拜]几？",
    "给{d}加{n}，[那天|]是[星期|周]几？",
    "{d}加{n}是[哪天|几号]，是[星期|周]几？",
    "[查一下|算算|告诉我]{d}{n}后是[周|星期]几",
    "{d}往后[推|数]{n}[，|]是[星期|周|礼拜]几？",
)
_EN_WEEKDAY_FROM_TODAY = (
    "[what|which] [day of the week|weekday] [is it|will it be] [in {n}|{n} from now|{n} from today]?",
    "[what|which] [day of the week|weekday] [is|will be] {n} from [now|today]?",
    "in {n}, [what|which] [weekday|day of the week] is it?",
    "[find|tell me] the [weekday|day of the week] {n} from [now|today].",
    "what's the date in {n}, and which [weekday|day of the week] is [it|that]?",
)
_ZH_WEEKDAY_FROM_TODAY = (
    "{n}[之|以|]后是[星期|周|礼拜]几？",
    "[再|]过{n}是[星期|周]几？",
    "[从|]今天[起|往后|之后|]{n}[后|]是[星期|周|礼拜]几？",
    "今天加{n}是[哪天|几号]，[星期|周]几？",
    "[告诉我|查一下]{n}后是[周|星期]几",
)


def weekday_after(rng: Random, language: Language) -> Made:
    """The weekday of a day that has to be counted first."""
    english = language == "en"
    today = rng.random() < 0.35
    day, (count, shown) = days.any_day(rng), days.some_days(rng, language)
    slots = {"d": days.written(rng, language, day), "n": shown}
    if today and rng.random() < 0.4:
        count, said = rng.choice(
            ((1, "tomorrow"), (2, "the day after tomorrow"), (-1, "yesterday"), (-2, "the day before yesterday"))
            if english
            else ((1, "明天"), (2, "后天"), (-1, "昨天"), (-2, "前天"), (3, "大后天"))
        )
        slots["n"] = said
        pattern = rng.choice(
            (
                "[what|which] [day of the week|weekday|day] [is|was|will be] {n}?",
                "[what|which] [day|weekday] of the week {n}?",
                "{n} is [what|which] [day of the week|weekday]?",
                "[tell me|find] the weekday of {n}.",
                "is {n} a Monday?",
            )
            if english
            else (
                "{n}[是|]星期几[？|]",
                "{n}[是|]周几[？|]",
                "{n}[是|]礼拜几？",
                "{n}是周末吗？",
                "[告诉我|查一下]{n}是星期几",
            )
        )
    elif today:
        pattern = rng.choice(_EN_WEEKDAY_FROM_TODAY if english else _ZH_WEEKDAY_FROM_TODAY)
    else:
        pattern = rng.choice(_EN_WEEKDAY_AFTER if english else _ZH_WEEKDAY_AFTER)
    then = day + timedelta(days=count)
    first = days.answered(rng, language, "", "", "after", day, day, count, today)
    second = days.answered(rng, language, "", "", "weekday", then, then, 0, False)
    return pattern, slots, [(Step.of(first),), (Step.of(second),)], second.answer


def searched_number(rng: Random, language: Language) -> Made:
    """Find a quantity, then convert it or calculate with it."""
    english = language == "en"
    what = (
        rng.choice(
            (
                f"Mount {words.invented_word(rng).capitalize()}",
                f"the {words.invented_word(rng).capitalize()} tower",
                f"{rng.choice(words.EN_PLACES)} bridge",
                f"the {words.invented_word(rng).capitalize()} river",
                f"a {words.noun(rng, language)}",
            )
        )
        if english
        else rng.choice(
            (
                f"{words.han_string(rng)}山",
                f"{words.han_string(rng)}塔",
                f"{rng.choice(words.ZH_PLACES)}大桥",
                f"{words.han_string(rng)}河",
                words.noun(rng, language),
            )
        )
    )
    dimension, names = rng.choice(
        (
            ("length", ("height", "length", "width", "depth")),
            ("mass", ("weight", "mass")),
            ("speed", ("top speed", "speed")),
        )
        if english
        else (("length", ("高度", "长度", "宽度", "深度")), ("mass", ("重量",)), ("speed", ("最高时速", "速度")))
    )
    name = rng.choice(names)
    source, target = rng.sample(tuple(units.UNITS[dimension]), 2)
    value = words.number(rng, 4, 0.2)
    query = (
        f"{name} of {what}"
        if english and rng.random() < 0.7
        else f"{what} {name}"
        if english
        else f"{what}的{name}"
        if rng.random() < 0.6
        else f"{what}{name}"
    )
    said = str(rng.choice(units.UNITS[dimension][source][1 if english else 2]))
    snippet = f"The {name} of {what} is {value} {said}." if english else f"{what}的{name}是{value}{said}。"
    search = Step("search", {"query": query}, snippet)
    first = rng.choice(
        ("[search for|look up|google|find|search the web for] [the|] {q}", "[find|look up] {q} [online|on the web]")
        if english
        else ("[搜索|搜一下|上网查|网上查一下|百度]{q}", "[上网|在网上]查{q}")
    )
    if english:
        first = first.replace("[the|] ", "")
    if rng.random() < 0.65:
        ask = quantities.conversion("", "", (dimension, value, source, target))
        then = rng.choice(
            (
                "convert [it|that|the result|the value] [to|into] {t}",
                "tell me [it|that|how much that is] in {t}",
                "give [it|the result] in {t}",
                "show [it|that] in {t}",
            )
            if english
            else ("[把结果|把它|]换算成{t}", "告诉我是多少{t}", "转换成{t}", "用{t}表示")
        )
        return (
            _joined(rng, language, first, then),
            {"q": query, "t": quantities.unit_name(rng, language, dimension, target)},
            [(search,), (Step.of(ask),)],
            ask.answer,
        )
    then, slots, step, answer = change(rng, language, value)
    return _joined(rng, language, first, then), {"q": query, **slots}, [(search,), (step,)], answer


def days_in_hours(rng: Random, language: Language) -> Made:
    """The days between two dates, told in another unit of time."""
    english = language == "en"
    day = days.any_day(rng)
    later = day + timedelta(days=rng.randint(2, 900))
    diff = days.answered(rng, language, "", "", "diff", day, later, 0, False)
    target = rng.choice(("h", "min", "s", "week"))
    ask = quantities.conversion("", "", ("time", diff.result, "day", target))
    pattern = rng.choice(
        (
            "how many {t} [are there |are |]between {d} and {e}?",
            "how many {t} [is it |] from {d} [to|until] {e}?",
            "count the days from {d} to {e} and convert [them|that|the result] to {t}.",
            "how long is it from {d} to {e} in {t}?",
        )
        if english
        else (
            "{d}到{e}有多少{t}？",
            "从{d}到{e}一共多少{t}？",
            "[算|数]一下{d}到{e}的天数[，|]再换算成{t}",
            "{d}和{e}相差多少{t}？",
        )
    )
    unit = (
        {"h": ("hours",), "min": ("minutes",), "s": ("seconds",), "week": ("weeks",)}
        if english
        else {"h": ("小时", "个小时"), "min": ("分钟",), "s": ("秒",), "week": ("周", "个星期")}
    )
    slots = {
        "d": days.written(rng, language, day),
        "e": days.written(rng, language, later),
        "t": rng.choice(unit[target]),
    }
    return pattern, slots, [(Step.of(diff),), (Step.of(ask),)], ask.answer
