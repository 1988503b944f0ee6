"""Choosing among phrasings, a fifth of them withheld, and what people put around a request.

Phrasings are templates with named slots. Every fifth of a list is withheld: training never shows it, evaluation asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from deepseek.training.curriculum.sample import Language

Phrasings = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a user wants of one tool: the words, the call that serves it, what the tool returns and what to answer.

    `operation` names an entry of `schema.OPERATIONS`, `arguments` uses its canonical parameter names.
    `fact` must stand in the answer.
    """

    text: str
    phrasing: str
    operation: str
    arguments: dict[str, Any]
    result: str
    answer: str
    fact: str


@dataclass(frozen=True, slots=True)
class Chat:
    """What a user says that needs no tool, and the answer, in which `fact` stands."""

    text: str
    phrasing: str
    answer: str
    fact: str


def is_withheld(index: int) -> bool:
    """Whether phrasing `index` of its list is kept from training."""
    return index % 5 == 4


def choose(rng: Random, group: str, phrasings: Sequence[str], withheld: bool) -> tuple[str, str]:
    """One template of the asked side of the split, and its identity ``group/index``."""
    indices = [index for index in range(len(phrasings)) if is_withheld(index) == withheld]
    index = rng.choice(indices)
    return phrasings[index], f"{group}/{index}"


_EN_BEFORE = (
    "Hi! ", "Hello. ", "Hey, ", "Quick question: ", "Please help. ", "OK, ", "One more thing. ", "I need this for work. ",
    "Excuse me. ", "Right. ", "Next: ", "So, ", "Well, ", "Good morning. ", "Let's see. ",
)  # fmt: skip
_EN_AFTER = (
    " Thanks!",
    " Thank you.",
    " Please.",
    " I'm in a hurry.",
    " It is for my homework.",
    " Cheers.",
    " Be quick.",
)
_ZH_BEFORE = (
    "你好！", "您好，", "请问，", "麻烦一下，", "嗨，", "好的，", "还有一件事，", "打扰一下，", "那个，", "接下来，", "我想问一下，", "早上好。", "请帮忙。",
)  # fmt: skip
_ZH_AFTER = ("谢谢！", "多谢。", "麻烦了。", "我比较急。", "辛苦了！", "作业要用。", "拜托了。")


def dress(rng: Random, language: Language, text: str) -> str:
    """`text` with or without a greeting before it, thanks after it, its full stop, its capital."""
    before, after = (_EN_BEFORE, _EN_AFTER) if language == "en" else (_ZH_BEFORE, _ZH_AFTER)
    drawn = rng.random()
    if drawn < 0.2:
        return rng.choice(before) + text
    if drawn < 0.3:
        return text + (rng.choice(after) if text[-1] in ".?!。？！" else "")
    if drawn < 0.4 and text[-1] in ".?。？":
        return text[:-1]
    return text


def decapitalise(rng: Random, template: str) -> str:
    """Now and then a template without its capital letter, as people type. Slots are never touched."""
    if (
        template[0].isascii()
        and template[0].isupper()
        and not template.startswith(("I ", "I'"))
        and rng.random() < 0.15
    ):
        return template[0].lower() + template[1:]
    return template


def compose(
    rng: Random, language: Language, group: str, phrasings: Sequence[str], withheld: bool, **slots: str
) -> tuple[str, str]:
    """The user's words for one phrasing of the list with its slots filled, and the phrasing's identity."""
    template, identity = choose(rng, f"{language}/{group}", phrasings, withheld)
    return dress(rng, language, decapitalise(rng, template).format(**slots)), identity
