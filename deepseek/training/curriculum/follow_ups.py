"""A second request that leans on the exchange before it: now double that, and in feet, what was it again."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from random import Random

from deepseek.training.curriculum import arithmetic
from deepseek.training.curriculum.arithmetic import apply, plain
from deepseek.training.curriculum.paraphrase import days, notes, numbers, quantities
from deepseek.training.curriculum.paraphrase.grammar import dress_up, say_or_none
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.results import Made, change, keep
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.several import WIDE
from deepseek.training.curriculum.stored import recalled
from deepseek.training.curriculum.trajectory import Round, Step, Trajectory

_EN_AGAIN = (
    "what was [the result|that|the answer|it][ again|]?",
    "[say|tell me] that again[, please|]",
    "[can you|could you|please] repeat [that|it|the result][?|]",
    "[sorry|pardon|excuse me], [what was that|what did you say|once more]?",
    "what did you [say|find]?",
    "[repeat|again|once more][ please|]",
    "what was the [last|previous] [result|answer]?",
)
_ZH_AGAIN = (
    "[刚才|上面|之前]的[结果|答案]是[什么|多少][？|来着？|]",
    "再说一遍[，谢谢|。|]",
    "[请|]重复一下[结果|]",
    "[没听清|没看清|忘了]，[是多少|再说一次|结果是什么]？",
    "你刚[才|]说[什么|多少]？",
)


def follow_up(rng: Random, language: Language, withheld: bool) -> Trajectory:
    """A second request in the same conversation."""
    english = language == "en"
    family = rng.choice(
        ("arithmetic", "percentages", "units", "dates", "memory", "search", "units", "arithmetic", "dates")
    )
    ask = WIDE[family](rng, language, False, False)
    earlier = ((ask.text, ((Step.of(ask),),), ask.answer),)
    rounds: list[Round]
    pattern, slots, rounds, answer = _lean(rng, language, ask)
    template = say_or_none(rng, language, pattern, withheld)
    if not template:
        return follow_up(rng, language, withheld)
    text = dress_up(rng, language, template, False, **slots)
    if not english and not text:
        return follow_up(rng, language, withheld)
    return Trajectory(text, "wide/follow_up", tuple(rounds), answer, answer, earlier)


def _lean(rng: Random, language: Language, ask: Ask) -> Made:
    english = language == "en"
    kinds = ["again"]
    numeric = re.fullmatch(r"-?\d{1,9}(\.\d{1,6})?", ask.result) is not None
    if numeric:
        kinds += ["change", "change", "change"]
    if ask.operation in ("calculate", "convert", "date_add", "search") and ask.result != "no results":
        kinds += ["keep"]
    kinds += {
        "convert": ["other unit", "other value"],
        "date_add": ["its weekday"],
        "date_weekday": ["other day"],
        "memory_set": ["get back", "get back"],
        "calculate": ["other sum"],
    }.get(ask.operation, [])
    kind = rng.choice(kinds)
    if kind == "change":
        then, slots, step, answer = change(rng, language, ask.result)
        lead = (
            rng.choice(("[now |ok, |and |then |next, |please |and now |great, now |]", "[can|could] you [now |]"))
            if english
            else rng.choice(("[现在|再|那|然后|接着|请|好，|]", "[能不能|可以]再"))
        )
        return (
            _glue(language, lead, then) + rng.choice((".", "?", "") if english else ("。", "？", "")),
            slots,
            [(step,)],
            answer,
        )
    if kind == "keep":
        held = ask.fact if ask.operation == "search" else ask.result
        then, slots, step, answer = keep(
            rng,
            language,
            held,
            rng.choice(("it", "that", "this", "the result")) if english else rng.choice(("它", "结果", "这个")),
        )
        return (
            _glue(language, "[now |please |ok, |and |]" if english else "[请|现在|好的，|]", then),
            slots,
            [(step,)],
            answer,
        )
    if kind in ("other unit", "other value"):
        dimension = quantities.dimension_of(str(ask.arguments["from"]))
        source, target, value = str(ask.arguments["from"]), str(ask.arguments["to"]), str(ask.arguments["value"])
        if kind == "other unit":
            others = [symbol for symbol in quantities.UNITS[dimension] if symbol not in (source, target)]
            if not others:
                return _lean(rng, language, ask)
            target = rng.choice(others)
            pattern = rng.choice(
                (
                    "[and|what about|how about|and what about|now] in {t}?",
                    "[and|now] [how many|how much in] {t}[ is that|]?",
                    "[now|and|please] [to|in|into] {t}[ please|].",
                    "convert it to {t} [instead|too|as well|]",
                )
                if english
                else ("[那|]{t}呢？", "[那|]是多少{t}呢？", "换成{t}呢？", "再换[算|]成{t}", "用{t}[呢|表示呢]？")
            )
            slots = {"t": quantities.unit_name(rng, language, dimension, target)}
        else:
            value = str(rng.randint(1, 200)) if dimension == "temperature" else numbers.everyday(rng, 4)
            pattern = rng.choice(
                ("[and|what about|how about|and what about|same for|now] {v} {f}?", "[and|now] {v}?")
                if english
                else ("[那|]{v}{f}呢？", "{v}呢？", "那{v}呢？")
            )
            slots = {
                "v": quantities.shown_value(rng, language, value),
                "f": quantities.unit_name(rng, language, dimension, source),
            }
        again = quantities.conversion("", "", (dimension, value, source, target))
        return pattern, slots, [(Step.of(again),)], again.answer
    if kind == "its weekday":
        day = date.fromisoformat(ask.result)
        again = days.answered(rng, language, "", "", "weekday", day, day, 0, False)
        pattern = rng.choice(
            (
                "[what|which] [day of the week|weekday|day] is [that|it]?",
                "[and|] [what|which] weekday [is that|is it|would that be]?",
                "is [that|it] a [Monday|weekend|Sunday|weekday]?",
                "on which [weekday|day of the week] does it fall?",
            )
            if english
            else ("那[天|]是[星期|周|礼拜]几？", "是[星期|周]几？", "那天[星期|周]几[呢|]？", "是周末吗？")
        )
        return pattern, {}, [(Step.of(again),)], again.answer
    if kind == "other day":
        day = days.any_day(rng)
        again = days.answered(rng, language, "", "", "weekday", day, day, 0, False)
        pattern = rng.choice(
            ("[and|what about|how about|and what about|same for] {d}?", "and on {d}?")
            if english
            else ("[那|]{d}呢？", "{d}呢")
        )
        return pattern, {"d": days.written(rng, language, day)}, [(Step.of(again),)], again.answer
    if kind == "get back":
        key, held = str(ask.arguments["key"]), str(ask.arguments["value"])
        template = rng.choice((notes.EN if english else notes.ZH)["get"]["tell"])
        answer = f"{key}: {held}" if english else f"{key}：{held}"
        return template, {"k": key}, [recalled(key, held)], answer
    if kind == "other sum":
        a, sign, b = numbers.everyday(rng, 4), rng.choice("+-*/"), numbers.everyday(rng, 3)
        expression, value = f"{a} {sign} {b}", plain(apply(sign, Decimal(a), Decimal(b)), 10)
        pattern = rng.choice(
            ("[and|what about|how about|and what about|now|next:] {e}?", "[and|now] {e}")
            if english
            else ("[那|]{e}呢？", "[再算|然后]{e}", "{e}呢")
        )
        return (
            pattern,
            {"e": arithmetic.in_signs(rng, expression)},
            [(Step("calculate", {"expression": expression}, value),)],
            f"{expression} = {value}",
        )
    return rng.choice(_EN_AGAIN if english else _ZH_AGAIN), {}, [], ask.answer


def _glue(language: Language, lead: str, then: str) -> str:
    return lead + then if language == "zh" or lead.endswith((" ", " |]")) or lead.startswith("[") else f"{lead} {then}"
