"""Patterns with alternatives, and what keyboards and habits do to a text.

A pattern is text with choices in square brackets, ``[please|could you|] add {a} and {b}``; choices nest and may be empty.
Slots in braces are filled last, so that no slip ever touches what must be copied.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from random import Random

from deepseek.training.curriculum.sample import Language

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"(\{\w+\})")
_KEYS_BESIDE = {
    "a": "s", "b": "v", "c": "x", "d": "s", "e": "r", "f": "d", "g": "h", "h": "g", "i": "u", "k": "l", "l": "k", "m": "n",
    "n": "m", "o": "p", "p": "o", "r": "t", "s": "a", "t": "r", "u": "i", "v": "c", "w": "e", "y": "t",
}  # fmt: skip
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def expand(rng: Random, pattern: str) -> str:
    """One reading of `pattern`."""
    while True:
        found = _CHOICE.search(pattern)
        if found is None:
            return pattern
        pattern = pattern[: found.start()] + rng.choice(found.group(1).split("|")) + pattern[found.end() :]


def normal(template: str) -> str:
    """`template` without case, spaces and punctuation: what makes two phrasings the same."""
    return re.sub(r"[^\w{}]+", "", template.lower())


def is_withheld_reading(template: str) -> bool:
    """Whether a reading of a pattern is kept from training: a tenth of them, chosen by their CRC-32."""
    return zlib.crc32(normal(template).encode()) % 10 == 0


def tidy(language: Language, text: str) -> str:
    """One space where a choice left two, none before punctuation, a capital where a sentence of Latin letters begins."""
    text = re.sub(r"  +", " ", text).strip()
    if language == "en":
        text = re.sub(r" ([,.?!;])", r"\1", text)
        text = text[:1].upper() + text[1:]
    return text


def roughen(rng: Random, language: Language, template: str) -> str:
    """`template` as people type it: mostly as it is, else without capitals, without or with too much punctuation, mistyped."""
    drawn = rng.random()
    if language == "en":
        if drawn < 0.45:
            return template
        if drawn < 0.75:
            template = _outside_slots(template, str.lower)
            return template.rstrip(".?! ") if rng.random() < 0.7 else template
        if drawn < 0.87:
            typed = _outside_slots(template, lambda text: _mistype(rng, text))
            return _outside_slots(typed, str.lower) if rng.random() < 0.5 else typed
        if drawn < 0.95:
            return template.rstrip(".?! ") + rng.choice(("", "!", "??", "...", " ?", ".", "?", " please", "?!"))
        if drawn < 0.97:
            return _outside_slots(template, str.upper)
        return template.replace("'", "") if "'" in template else template.rstrip(".?")
    if drawn < 0.5:
        return template
    if drawn < 0.7:
        return template.rstrip("。？！?!.")
    if drawn < 0.8:
        return template.rstrip("。？！?!.") + rng.choice(
            ("？", "?", "！", "。", "??", "呢", "啊", "呀", "～", "…", "，谢谢")
        )
    if drawn < 0.88:
        return template.replace("，", rng.choice((",", " ", ""))).replace("？", "?").replace("：", ":")
    if drawn < 0.94:
        return _SLOT.sub(lambda slot: rng.choice((f" {slot[1]} ", f"{slot[1]} ", f" {slot[1]}")), template).strip()
    return _outside_slots(template, lambda text: _drop_character(rng, text))


def full_width(rng: Random, text: str, chance: float = 0.03) -> str:
    """Now and then the digits of a Chinese keyboard."""
    return text.translate(_FULL_WIDTH) if rng.random() < chance else text


def _outside_slots(template: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("{") else change(part) for part in _SLOT.split(template))


def _mistype(rng: Random, text: str) -> str:
    """One slip in one of the longer words, or none where there is no such word."""
    words = list(re.finditer(r"[A-Za-z']{4,}", text))
    if not words:
        return text
    word = rng.choice(words)
    place = rng.randrange(word.start() + 1, word.end() - 1)
    one = text[place]
    kind = rng.randrange(4)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + one + text[place:]
    if kind == 2:
        return text[:place] + text[place + 1] + one + text[place + 2 :]
    return text[:place] + _KEYS_BESIDE.get(one, one) + text[place + 1 :]


def _drop_character(rng: Random, text: str) -> str:
    if len(text) < 4:
        return text
    place = rng.randrange(len(text))
    return text[:place] + text[place + 1 :]


_EN_BEFORE = (
    "[hi|hello|hey|hey there|hi there|good morning|good evening|hiya|yo|dear assistant][,|!|.] ", "[ok|okay|right|alright|so|well|now|next|also|btw|by the way|oh|um][,|] ",
    "[quick|one|another|one more|small|simple] question[:|,|.|!] ", "[sorry to bother you|excuse me|pardon me|if you don't mind|when you have a moment][,|.] ",
    "[i need|i could use] [some|a bit of|your] help[.|:] ", "[please|pls|plz] help[ me|][.|:|!] ", "[hey|hi] [assistant|bot|tiny|deepseek|buddy|friend][,|!] ",
)  # fmt: skip
_EN_AFTER = (
    " [thanks|thank you|thx|cheers|ty|much appreciated|thanks a lot|thanks in advance][!|.|]", " [please|pls|plz]", " [i'm|i am] in a [hurry|rush].", " [it's|it is|this is] for [work|school|my homework|a friend|my boss].",
    " [asap|right now|quickly|be quick][!|.|]",
)  # fmt: skip
_ZH_BEFORE = (
    "[你好|您好|嗨|哈喽|早上好|晚上好|嘿|喂][，|！|。|]", "[请问|问一下|请教一下|想问一下|麻烦问下|那个|对了|另外|还有|好的|嗯|哎][，|]", "[麻烦|劳驾|打扰|不好意思|麻烦你|辛苦][了|一下][，|]",
    "[帮个忙|帮帮忙|拜托|求助|急][，|！|：]", "[有个问题|小问题|一个问题|我有个问题][，|：]", "[助手|小助手|机器人|亲][，|]",
)  # fmt: skip
_ZH_AFTER = (
    "[，|。|！| |]谢谢[你|您|了|啦|][！|。|]",
    "[，|。|]多谢[了|][！|]",
    "[，|。]我[比较急|赶时间|急用]。",
    "[，|。]急[！|]",
    "[，|。]麻烦[你|您|]了。",
    "[，|。]作业要用。",
    "[，|。]拜托[了|啦]！",
)


def surround(rng: Random, language: Language, template: str) -> str:
    """`template` with or without a greeting before it and thanks after it."""
    before, after = (_EN_BEFORE, _EN_AFTER) if language == "en" else (_ZH_BEFORE, _ZH_AFTER)
    drawn = rng.random()
    if drawn < 0.15 or drawn > 0.96:
        start = expand(rng, rng.choice(before))
        if language == "en":
            start = start[:1].upper() + start[1:]
            if not start.rstrip().endswith((".", "!")) and not template.startswith(("I ", "I'", "{")):
                template = template[:1].lower() + template[1:]
        template = start + template
    if (0.15 <= drawn < 0.25 or drawn > 0.96) and template[-1:] in ".?!。？！":
        template += expand(rng, rng.choice(after)).lstrip("，。！ " if language == "zh" else "")
    return template


def say(
    rng: Random,
    language: Language,
    pattern: Callable[[], str],
    avoid: frozenset[str],
    withheld: bool,
) -> str:
    """A template of the asked side of the split: a reading of one of the patterns drawn, that is none of `avoid`."""
    while True:
        template = tidy(language, expand(rng, pattern()))
        if normal(template) not in avoid and is_withheld_reading(template) == withheld:
            return template


def say_or_none(rng: Random, language: Language, pattern: str, withheld: bool) -> str:
    """A reading on the asked side of the split, or nothing where a few tries find none."""
    for _ in range(12):
        template = tidy(language, expand(rng, pattern))
        if is_withheld_reading(template) == withheld:
            return template
    return ""


def dress_up(rng: Random, language: Language, template: str, bare: bool, **slots: str) -> str:
    """`template` with its slots filled; unless `bare` with greeting, thanks and slips."""
    if not bare:
        template = roughen(rng, language, surround(rng, language, template))
    return template.format(**slots)
