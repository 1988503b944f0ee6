"""How people write numbers: in words, in Chinese numerals, with full-width digits, with a currency sign."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.paraphrase.grammar import full_width
from deepseek.training.curriculum.sample import Language

_ONES = words.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = words.split("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
_DIGITS = "零一二三四五六七八九"


def in_english(value: int) -> str:
    """Words for 0 to 999: ``two hundred and five``, ``forty-two``."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(value, 100)
    return f"{_ONES[hundreds]} hundred" + (f" and {in_english(rest)}" if rest else "")


def in_chinese(value: int) -> str:
    """Numerals for 0 to 9999: ``二十三``, ``一百零五``, ``三千二百``."""
    if value < 10:
        return _DIGITS[value]
    out, zero = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, value = divmod(value, size)
        if digit:
            out += ("零" if zero and out else "") + _DIGITS[digit] + name
            zero = False
        else:
            zero = bool(out)
    return out.removeprefix("一") if out.startswith("一十") else out


def spoken(rng: Random, language: Language, number: str) -> str:
    """`number` as somebody may write it; mostly just so."""
    drawn = rng.random()
    if number.isdigit() and int(number) < 1000 and drawn < 0.12:
        value = int(number)
        if language == "zh":
            return in_chinese(value)
        if value < 100 or drawn < 0.03:
            text = in_english(value)
            return text.replace("-", " ") if rng.random() < 0.3 else text
    if language == "zh":
        return full_width(rng, number, 0.06)
    return words.grouped(rng, number)


def everyday(rng: Random, digits: int = 5, decimals: float = 0.2) -> str:
    """A number of the sort that people ask about: round ones are common."""
    drawn = rng.random()
    if drawn < 0.35:
        return str(rng.randint(1, 99))
    if drawn < 0.5:
        return str(rng.randint(1, 99) * rng.choice((5, 10, 100, 1000)))
    return words.number(rng, digits, decimals)


def money(rng: Random, language: Language, shown: str) -> str:
    """An amount with its currency before or after it."""
    if language == "en":
        return rng.choice(
            ("${}", "{} dollars", "€{}", "{} euros", "£{}", "{}", "{} bucks", "{} USD", "{} pounds")
        ).format(shown)
    return rng.choice(("{}元", "{}块", "{}块钱", "¥{}", "{}人民币", "{}", "{}美元")).format(shown)
