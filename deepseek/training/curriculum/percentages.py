"""Percentages, each as one expression for the calculator.

The conventions: p % of n is ``n * p / 100``; n and p % more is ``n * (100 + p) / 100``, less ``n * (100 - p) / 100``;
a as a percentage of b is ``a / b * 100``.
"""

from __future__ import annotations

from decimal import Decimal
from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.arithmetic import plain
from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

EN = {
    "of": (
        "What is {p}% of {n}?", "{p}% of {n}", "Calculate {p}% of {n}.", "How much is {p} percent of {n}?", "Find {p}% of {n} for me",
        "What is {p} percent of {n}?", "I need {p}% of {n}.", "Can you work out {p} % of {n}?", "Give me {p} percent of {n}.", "What does {p}% of {n} come to?",
        "The bill is {n} and I tip {p}%. How much is the tip?", "A commission of {p}% on {n} is how much?",
    ),
    "more": (
        "Increase {n} by {p}%.", "What is {n} plus {p}%?", "{n} goes up by {p}%. What is it now?", "Add {p}% tax to {n}.", "What is {n} after a {p}% rise?",
        "A salary of {n} grows by {p} percent. What is the new salary?", "Raise {n} by {p} percent", "The price is {n} before {p}% tax. What do I pay?",
        "{n} with {p}% on top", "How much is {n} increased by {p}%?",
    ),
    "less": (
        "Decrease {n} by {p}%.", "What is {n} minus {p}%?", "{n} falls by {p}%. What is it now?", "Take {p}% off {n}.", "What is {n} after a {p}% discount?",
        "A coat costs {n} and is {p} percent off. What does it cost now?", "Reduce {n} by {p} percent", "How much is {n} with a {p}% discount?",
        "{n} less {p}%", "The shop gives {p}% off the price of {n}. What do I pay?",
    ),
    "share": (
        "What percentage of {b} is {a}?", "{a} is what percent of {b}?", "What percent is {a} of {b}?", "Express {a} as a percentage of {b}.", "{a} out of {b} as a percentage",
        "I scored {a} out of {b}. What percentage is that?", "How many percent of {b} is {a}?", "Give {a} of {b} in percent.",
        "What share of {b} is {a}, in percent?", "{a} of {b} people came. What percentage?",
    ),
}  # fmt: skip
ZH = {
    "of": (
        "{n}的{p}%是多少？", "{n}的百分之{p}是多少", "求{n}的{p}%", "计算{n}的百分之{p}", "{n}的{p}%等于几？", "帮我算{n}的{p}%", "我需要{n}的百分之{p}", "{n}的{p}%",
        "账单{n}元，小费{p}%是多少？", "本金{n}，利率{p}%，利息是多少？", "请问{n}的{p}%是几", "{n}元按{p}%提成，提成多少？",
    ),
    "more": (
        "{n}增加{p}%是多少？", "{n}上涨{p}%后是多少", "把{n}提高{p}%", "{n}再加上{p}%的税是多少？", "{n}涨了百分之{p}，现在是多少？", "工资{n}元，涨{p}%后是多少？",
        "价格{n}，另加{p}%税，要付多少？", "{n}增长百分之{p}之后", "{n}加{p}%", "求{n}增加{p}%后的结果",
    ),
    "less": (
        "{n}减少{p}%是多少？", "{n}下降{p}%后是多少", "把{n}降低{p}%", "{n}优惠{p}%后是多少？", "{n}跌了百分之{p}，现在是多少？", "原价{n}元，便宜{p}%，现价多少？",
        "{n}元的商品降价{p}%，要付多少？", "{n}减去{p}%", "{n}缩小百分之{p}之后", "求{n}减少{p}%后的结果",
    ),
    "share": (
        "{a}是{b}的百分之几？", "{a}占{b}的百分比是多少", "{a}占{b}的百分之多少？", "求{a}占{b}的百分比", "{b}里的{a}是百分之几？", "我考了{a}分，满分{b}，得分率是多少？",
        "{b}人中来了{a}人，占百分之几？", "把{a}表示成{b}的百分比", "{a}相当于{b}的百分之几", "{a}除以{b}是百分之多少？",
    ),
}  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """One of the four questions people ask with a percent sign."""
    table = EN if language == "en" else ZH
    form = rng.choice(tuple(table))
    if form == "share":
        a, b = sorted((words.integer(rng, 5), words.integer(rng, 5)), key=int)
        slots, expression, value = {"a": a, "b": b}, f"{a} / {b} * 100", Decimal(a) / Decimal(b) * 100
    else:
        n, p = words.number(rng, 6, 0.2), percent(rng)
        factor, written = {
            "of": (Decimal(p), p),
            "more": (100 + Decimal(p), f"(100 + {p})"),
            "less": (100 - Decimal(p), f"(100 - {p})"),
        }[form]
        slots, expression, value = (
            {"n": words.grouped(rng, n), "p": p},
            f"{n} * {written} / 100",
            Decimal(n) * factor / 100,
        )
    text, phrasing = compose(rng, language, f"percentages/{form}", table[form], withheld, **slots)
    result = plain(value)
    shown = f"{result}%" if form == "share" else result
    answer = f"The result is {shown}." if language == "en" else f"结果是{shown}。"
    return Ask(text, phrasing, "calculate", {"expression": expression}, result, answer, result)


def percent(rng: Random) -> str:
    return str(rng.randint(1, 99)) if rng.random() < 0.8 else f"{rng.randint(0, 30)}.{rng.randint(1, 9)}"
