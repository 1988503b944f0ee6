"""Several things asked at once: independent calls, all made in one message, their results told in the same order."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from random import Random

from deepseek.training.curriculum import arithmetic
from deepseek.training.curriculum.arithmetic import apply, plain
from deepseek.training.curriculum.paraphrase import clocks, days, lexicon, lookups, notes, numbers, quantities, sums
from deepseek.training.curriculum.paraphrase.grammar import dress_up, expand, say_or_none
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.trajectory import Step, Trajectory

WIDE: dict[str, Callable[[Random, Language, bool, bool], Ask]] = {
    "arithmetic": sums.arithmetic_ask, "percentages": sums.percent_ask, "units": quantities.ask, "dates": days.ask, "memory": notes.ask, "search": lookups.ask, "clock": clocks.ask,
}  # fmt: skip
FAMILIES_OF_SIX = tuple(family for family in WIDE if family != "clock")
_EN_JOINS = (" and ", ", and ", "; ", " and also ", ", and then ", ", also ", " plus: ", " & ", ", and please ", ", and could you tell me: ", "; then ", ", then ")  # fmt: skip
_EN_SENTENCES = (" And ", " Also, ", " Then ", " ", " Also: ", " And also ", " Second: ", " Next: ", "\n", " Besides, ", " Oh and ", " After that: ")  # fmt: skip
_ZH_JOINS = (
    "，",
    "，还有",
    "；",
    "，然后",
    "，另外",
    "，顺便",
    "，再",
    "，以及",
    "，同时",
    "、还有",
    "，并且",
    "，接着",
    "，也",
    " ",
    "，最后",
)
_ZH_SENTENCES = (
    "。另外，",
    "？还有，",
    "。还有",
    "。然后",
    "。接着，",
    "？另外",
    "。",
    "？",
    "\n",
    "。顺便问一下，",
    "。最后，",
)
_EN_LEADS = (
    "[two|a few|several|a couple of|some] [things|questions|tasks|requests][:|.] ",
    "[I have|I've got] [two|a few|several] [questions|things|tasks][:|.] ",
    "[please|could you] do [both|all of these|the following|all this][:|.] ",
    "",
)
_ZH_LEADS = (
    "[两|几]件事[：|，]",
    "[有|我有][两|几]个问题[：|，]",
    "[请|帮我]一起[办|做|查][：|，|一下：]",
    "[麻烦|请]同时[处理|完成][：|一下：]",
    "",
)


def parallel(rng: Random, language: Language, withheld: bool) -> Trajectory:
    """Two to four independent requests: of one kind in one sentence, or of any kinds side by side."""
    if rng.random() < 0.45:
        text, asks, phrasing = _alike(rng, language, withheld)
    else:
        text, asks, phrasing = _mixed(rng, language, withheld)
    answer = "\n".join(ask.answer for ask in asks)
    return Trajectory(text, phrasing, (tuple(Step.of(ask) for ask in asks),), answer, answer)


def _mixed(rng: Random, language: Language, withheld: bool) -> tuple[str, list[Ask], str]:
    count = rng.choice((2, 2, 2, 2, 3, 3, 4))
    families = [rng.choice((*FAMILIES_OF_SIX, *FAMILIES_OF_SIX, "clock")) for _ in range(count)]
    asks = [WIDE[family](rng, language, withheld and index == 0, True) for index, family in enumerate(families)]
    if len({str(ask.arguments) + ask.operation for ask in asks}) < count:
        return _mixed(rng, language, withheld)
    free_text = any(family in ("memory", "search") for family in families)
    texts = [_trimmed(ask.text) for ask in asks]
    if language == "en":
        lead = expand(rng, rng.choice(_EN_LEADS)) if rng.random() < 0.2 else ""
        drawn = rng.random()
        if drawn < 0.15:
            marks = rng.choice((("1. ", "2. ", "3. ", "4. "), ("1) ", "2) ", "3) ", "4) "), ("a) ", "b) ", "c) ", "d) "), ("first, ", "second, ", "third, ", "finally, ")))  # fmt: skip
            text = rng.choice((" ", "\n", ", ")).join(mark + said for mark, said in zip(marks, texts, strict=False))
        elif drawn < (0.75 if free_text else 0.5):
            ends = [rng.choice((".", "?", "?", "!")) if not _asks(said) else "?" for said in texts]
            join = rng.choice(_EN_SENTENCES)
            text = texts[0] + ends[0]
            for said, end in zip(texts[1:], ends[1:], strict=True):
                text += join + (said if join in (" ", "\n") else _lower(said)) + end
        else:
            join = rng.choice(_EN_JOINS)
            text = texts[0] + "".join(
                (join if i == count - 2 or rng.random() < 0.4 else ", ") + _lower(said)
                for i, said in enumerate(texts[1:])
            )
            text += rng.choice(("?", ".", "", ""))
        if rng.random() < 0.25:
            text = text.lower() if not free_text else text
        return (lead + text).strip(), asks, "wide/parallel/mixed"
    lead = expand(rng, rng.choice(_ZH_LEADS)) if rng.random() < 0.2 else ""
    drawn = rng.random()
    if drawn < 0.12:
        marks = rng.choice((("1. ", "2. ", "3. ", "4. "), ("一、", "二、", "三、", "四、"), ("第一，", "第二，", "第三，", "第四，"), ("先", "再", "然后", "最后"), ("1、", "2、", "3、", "4、")))  # fmt: skip
        text = rng.choice(("；", "，", "\n", " ")).join(mark + said for mark, said in zip(marks, texts, strict=False))
    elif drawn < (0.65 if free_text else 0.45):
        text = rng.choice(_ZH_SENTENCES).join(texts) + rng.choice(("？", "。", ""))
    else:
        join = rng.choice(_ZH_JOINS)
        text = texts[0] + "".join((join if i == count - 2 or rng.random() < 0.4 else "，") + said for i, said in enumerate(texts[1:])) + rng.choice(("？", "。", "", ""))  # fmt: skip
    return lead + text, asks, "wide/parallel/mixed"


def _trimmed(text: str) -> str:
    return text.rstrip(".?!。？！ ")


def _asks(text: str) -> bool:
    return text.lower().startswith(
        ("what", "how", "which", "who", "can ", "could", "do you", "is ", "when", "on which")
    )


def _lower(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]


def listed(rng: Random, language: Language, items: list[str]) -> str:
    """``a, b and c``, ``a、b和c``."""
    if language == "en":
        last = (
            rng.choice((" and ", " and ", ", and ", ", ", " as well as ", " & "))
            if len(items) == 2
            else rng.choice((" and ", ", and ", ", "))
        )
        return ", ".join(items[:-1]) + last + items[-1]
    return (
        rng.choice(("、", "，", "、")).join(items[:-1])
        + rng.choice(("和", "、", "，", "以及", "跟", "还有"))
        + items[-1]
    )


_EN_ALIKE: dict[str, tuple[str, ...]] = {
    "sum": ("[what is|what's|calculate|compute|work out|evaluate|solve|how much is|tell me|find|do|give me] {l}[, please|]?", "[can|could] you [calculate|work out|compute|solve|do] {l}[ for me|]?", "[what are|give me|tell me|I need] the [results|answers|values] of {l}?", "{l}", "{l}?", "[please|pls] [calculate|work out|compute|solve] [these|the following|all of these|both|]: {l}", "I need {l}.", "how much [are|is] {l}?"),
    "to": ("[convert|change|turn] {l} [to|into] {t}[, please|].", "how many {t} are {l}?", "[what are|what is|how much are|give me|show me|I need] {l} in {t}?", "{l} [in|to] {t}", "[can|could] you convert {l} [to|into] {t}[ for me|]?", "[express|write|put] {l} in {t}"),
    "into": ("[convert|change|turn] {x} [to|into] {l}[, please|].", "[what is|what's|how much is|give me|show me|I need] {x} in {l}?", "{x} [in|to] {l}", "[can|could] you convert {x} [to|into] {l}[ for me|]?", "how many {l} [are|is] {x}?"),
    "weekday": ("[what|which] [day of the week|weekday|day] [are|were|is] {l}?", "[what|which] [days of the week|weekdays|days] [are|were|will be] {l}?", "[tell me|give me|find|check] the [weekdays|days of the week|weekday] of {l}.", "[on which|on what] [days|weekdays|days of the week] [do|did] {l} fall?", "weekdays of {l}", "[was|is] {l} a Monday[ each|]?"),
    "after": ("[what|which] [date|dates|days] [is|are|comes|come] {l} after {d}?", "[what's|what is|give me|tell me] the [date|dates] {l} after {d}?", "add {l} to {d}[ separately|, each on its own|].", "{l} after {d}?"),
    "get": ("[what are|what were|tell me|give me|recall|show me|do you remember|remind me of|look up|read out|I forgot] my {l}?", "[what is|what's] my {l}?", "[what did I save|what is stored|what do you have] [under|as|for] {l}?", "[can|could] you [tell me|recall|give me] my {l}?"),
    "set": ("[remember|note|save|keep in mind|don't forget|please remember|write down|store][ that|:] my {l}.", "my {l}. [Remember that|Remember both|Save it all|Please remember|Note this|Save this].", "[save|store|remember|note] [the following|these|this|]: {l}", "[can|could] you [remember|save|note] that my {l}?"),
    "percent": ("[what is|what's|calculate|how much is|give me|find|tell me] {l} of {n}?", "{l} of {n}", "[can|could] you [calculate|work out] {l} of {n}?"),
    "search": ("[search|search the web|look online|google] for {l}.", "[look up|google|find|search online for] {l}[ online| on the web|].", "[search|look] [the web |the internet |online |]for {l}[ separately|, one by one|].", "I need [information|web results] [about|on] {l}."),
}  # fmt: skip
_ZH_ALIKE: dict[str, tuple[str, ...]] = {
    "sum": ("[计算|算一下|算|请算|帮我算|求|请计算|口算]{l}[。|，谢谢|]", "{l}[分别|各|都|]是多少？", "{l}[分别|各|]等于[多少|几]？", "{l}", "[能|可以]帮我[算|计算]{l}吗？", "[这几个|下面几个]算式[结果|]是多少：{l}", "{l}[的结果|]分别[告诉我|是多少]"),
    "to": ("把{l}[都|分别|][换算|转换|换|转]成{t}[。|]", "{l}[分别|各|]是多少{t}？", "{l}[分别|各|]等于多少{t}？", "{l}[换算|换|转]成{t}", "[帮我|请]把{l}[换算|转换]成{t}"),
    "into": ("把{x}[分别|][换算|转换|换|转]成{l}[。|]", "{x}[分别|][是|等于]多少{l}？", "{x}[换|换算]成{l}[分别|各]是多少？", "[帮我|请]把{x}[换算|转换]成{l}"),
    "weekday": ("{l}[分别|各|都|]是[星期|周|礼拜]几？", "[查|算|看][一下|]{l}[分别|各|]是[星期|周]几", "[告诉我|请问|想知道]{l}[分别|]是[周|星期]几[？|]"),
    "after": ("{d}[之|]后{l}[分别|各|]是[哪天|几号]？", "从{d}起，{l}后[分别|各]是[几号|哪天]？", "{d}[分别|]加{l}[分别|各|]是[几号|哪天]？"),
    "get": ("我的{l}[分别|各|都|]是什么？", "[告诉我|查一下|回忆一下|说说|念一下]我的{l}", "[还记得|记得]我的{l}吗？", "我[存|保存|记]的{l}[分别|]是什么？", "我忘了{l}，[帮我查查|告诉我]"),
    "set": ("[记住|记一下|请记住|帮我记下|保存|别忘了|备注][：|，|]我的{l}[。|]", "我的{l}[，|。][都记住|记一下|请保存|记住|帮我记着]。", "[存|保存|记录]一下：{l}"),
    "percent": ("{n}的{l}[分别|各|]是多少？", "[计算|算|算一下|求]{n}的{l}", "[帮我|请]算{n}的{l}"),
    "search": ("[搜索|搜一下|上网查|帮我搜|百度|查一下网上的]{l}[。|]", "[分别|依次][搜索|搜|查一下]{l}", "[上网|在网上][搜|找|查]{l}"),
}  # fmt: skip


def _alike(rng: Random, language: Language, withheld: bool) -> tuple[str, list[Ask], str]:
    """One kind of request about several things."""
    kind = rng.choices(tuple(_EN_ALIKE), (5, 4, 2, 3, 1.5, 2, 2, 1.5, 1.5))[0]
    table = _EN_ALIKE if language == "en" else _ZH_ALIKE
    items, asks, slots = _things(rng, language, kind, rng.choice((2, 2, 2, 3, 3, 4)))
    if len(set(items)) < len(items):
        return _alike(rng, language, withheld)
    template = say_or_none(rng, language, rng.choice(table[kind]), withheld)
    if not template:
        return _alike(rng, language, withheld)
    text = dress_up(rng, language, template, False, l=listed(rng, language, items), **slots)
    return text, asks, f"wide/parallel/{kind}"


def _things(rng: Random, language: Language, kind: str, count: int) -> tuple[list[str], list[Ask], dict[str, str]]:
    """What stands in the list, one request for each, and the other slots."""
    english = language == "en"
    items: list[str] = []
    asks: list[Ask] = []
    slots: dict[str, str] = {}
    day, drawn = days.any_day(rng), quantities.draw(rng)
    value = numbers.everyday(rng, 6)
    if kind == "into":
        table = quantities.UNITS[drawn[0]]
        targets = rng.sample([symbol for symbol in table if symbol != drawn[2]], min(count, len(table) - 1))
        slots["x"] = f"{drawn[1]}{' ' if english else ''}{quantities.unit_name(rng, language, drawn[0], drawn[2])}"
        for target in targets:
            items.append(quantities.unit_name(rng, language, drawn[0], target))
            asks.append(quantities.conversion("", "", (*drawn[:3], target)))
        return (items, asks, slots) if len(items) > 1 else _things(rng, language, kind, count)
    slots |= {"t": quantities.unit_name(rng, language, drawn[0], drawn[3]), "d": days.written(rng, language, day), "n": value}  # fmt: skip
    for _ in range(count):
        if kind == "sum":
            sign = rng.choice("++--**//")
            a, b = numbers.everyday(rng, 4), numbers.everyday(rng, 4)
            expression = f"{a} {sign} {b}"
            spoken = arithmetic.SPOKEN[language].get(sign) if rng.random() < 0.3 else None
            items.append(f"{a}{spoken}{b}" if spoken else arithmetic.in_signs(rng, expression))
            result = plain(apply(sign, Decimal(a), Decimal(b)), 10)
            asks.append(
                Ask("", "", "calculate", {"expression": expression}, result, f"{expression} = {result}", result)
            )
        elif kind == "to":
            dimension, _, _, target = drawn
            source = rng.choice([symbol for symbol in quantities.UNITS[dimension] if symbol != target])
            one = str(rng.randint(1, 300)) if dimension == "temperature" else numbers.everyday(rng, 4)
            items.append(f"{one}{' ' if english else ''}{quantities.unit_name(rng, language, dimension, source)}")
            asks.append(quantities.conversion("", "", (dimension, one, source, target)))
        elif kind == "weekday":
            one_day = days.any_day(rng)
            items.append(days.written(rng, language, one_day))
            asks.append(days.answered(rng, language, "", "", "weekday", one_day, one_day, 0, False))
        elif kind == "after":
            some, shown = days.some_days(rng, language)
            items.append(shown)
            asks.append(days.answered(rng, language, "", "", "after", day, day, some, False))
        elif kind == "get":
            key, held = notes.key(rng, language), notes.value(rng, language)
            items.append(key if not items or not english or rng.random() < 0.5 else f"my {key}")
            asks.append(notes.recalled(rng, language, "", "", key, held))
        elif kind == "set":
            key, held = notes.key(rng, language), notes.value(rng, language)
            items.append(
                ("" if not items or rng.random() < 0.5 else "my ") + f"{key} is {held}" if english else f"{key}是{held}"
            )
            asks.append(notes.stored(rng, language, "", "", key, held))
        elif kind == "percent":
            p = str(rng.randint(1, 99))
            items.append(f"{p}%" if english or rng.random() < 0.6 else f"百分之{p}")
            result = plain(Decimal(value) * Decimal(p) / 100, 10)
            answer = f"The result is {result}." if english else f"结果是{result}。"
            asks.append(Ask("", "", "calculate", {"expression": f"{value} * {p} / 100"}, result, answer, result))
        else:
            wanted = lookups.query(rng, language)
            if " and " in wanted or "和" in wanted or "," in wanted:
                wanted = rng.choice(lexicon.EN_WORDS if english else lexicon.ZH_WORDS)
            items.append(wanted if rng.random() < 0.6 else f'"{wanted}"' if english else f"“{wanted}”")
            asks.append(lookups.found(rng, language, "", "", wanted))
    return items, asks, slots
