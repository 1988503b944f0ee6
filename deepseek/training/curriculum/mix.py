"""Which sample comes when: stages, index-addressed training samples, and held-out draws.

What is asked last decides the split. Its hash puts a sixteenth of all user texts on the held-out side: training never
shows such a text, evaluation asks nothing else. A fifth of the phrasings is withheld on top (`phrasing.is_withheld`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.training.curriculum import (
    arithmetic,
    copying,
    dates,
    direct,
    greetings,
    memory,
    percentages,
    platform,
    schema,
    search,
    units,
)
from deepseek.training.curriculum.phrasing import Ask, Chat
from deepseek.training.curriculum.sample import (
    Expected,
    Language,
    Message,
    Sample,
    text_of,
    tool_call_message,
)

__all__ = ["FAMILIES", "eval_draws", "sample_at", "stage_mix"]

ASKS: Mapping[str, Callable[[Random, Language, bool], Ask]] = {
    "arithmetic": arithmetic.ask,
    "percentages": percentages.ask,
    "units": units.ask,
    "dates": dates.ask,
    "memory": memory.ask,
    "search": search.ask,
}
CHATS: Mapping[str, Callable[[Random, Language, bool], Chat]] = {
    "greetings": greetings.chat,
    "platform": platform.chat,
    "copying": copying.chat,
}
CALL_FAMILIES = (*ASKS, "direct")
FAMILIES = (*CALL_FAMILIES, "reading", "no_call", *CHATS)
"""What is evaluated: single calls by family, reading results, answering without a call though tools are there, plain answers."""

_ASK_WEIGHTS = {"arithmetic": 3, "percentages": 3, "units": 3, "dates": 3, "memory": 3, "search": 2}
_STAGES: tuple[tuple[float, dict[str, float]], ...] = (
    (0.0, {"copying": 0.35, "direct": 0.20, "call": 0.40, "reading": 0.0, "no_call": 0.0, "greetings": 0.02, "platform": 0.03}),
    (0.15, {"copying": 0.15, "direct": 0.15, "call": 0.60, "reading": 0.0, "no_call": 0.0, "greetings": 0.04, "platform": 0.06}),
    (0.4, {"copying": 0.07, "direct": 0.07, "call": 0.46, "reading": 0.17, "no_call": 0.13, "greetings": 0.03, "platform": 0.07}),
    (1.0, {"copying": 0.06, "direct": 0.06, "call": 0.44, "reading": 0.20, "no_call": 0.14, "greetings": 0.03, "platform": 0.07}),
)  # fmt: skip

_SYSTEM = {
    "en": (
        "You are a helpful assistant.", "Answer briefly.", "You are deepseek-tiny.", "Use the tools when they fit.", "Be polite and short.",
        "You help engineers.", "Answer in the user's language.",
    ),
    "zh": ("你是一个有用的助手。", "请简短回答。", "你是deepseek-tiny。", "合适时使用工具。", "请礼貌作答。", "你帮助工程师解决问题。", "用用户的语言回答。"),
}  # fmt: skip
REFUSAL = {"en": "I have no tool for that.", "zh": "我没有可用的工具来完成这件事。"}
_ERRORS = (
    "out of range",
    "timeout",
    "invalid argument",
    "service unavailable",
    "not supported",
    "permission denied",
    "rate limit reached",
)


def stage_mix(progress: float) -> dict[str, float]:
    """The share of each kind of sample when `progress` (0 to 1) of training is done; the shares sum to 1."""
    progress = min(max(progress, 0.0), 1.0)
    for (left, before), (right, after) in pairwise(_STAGES):
        if progress <= right:
            t = (progress - left) / (right - left)
            return {kind: before[kind] * (1 - t) + after[kind] * t for kind in before}
    return dict(_STAGES[-1][1])


def sample_at(seed: int, index: int, progress: float) -> Sample:
    """Training sample `index` of the curriculum `seed`: the same three numbers give the same sample, on any machine."""
    rng = Random(f"train/{seed}/{index}")
    mix = stage_mix(progress)
    kind = rng.choices(tuple(mix), tuple(mix.values()))[0]
    language: Language = "en" if rng.random() < 0.5 else "zh"
    while True:
        sample = _draw(rng, kind, language, withheld=False)
        if not is_held_out(sample.user_text):
            return sample


def eval_draws(
    family: str, language: Language | None, n: int, withheld_phrasings: bool = False, seed: int = 0
) -> list[Sample]:
    """`n` distinct held-out samples of `family`, whose user texts training never shows; alternating languages if None.

    `withheld_phrasings` asks with phrasings training never shows either. Families with few texts (greetings, platform)
    may have fewer than `n`: then all that were found are returned. With withheld phrasings every text is unseen,
    so the hash does not cut further.

    Raises:
        ConfigError: `family` is not one of `FAMILIES`.
    """
    if family not in FAMILIES:
        raise ConfigError("unknown curriculum family", found=repr(family), expected=f"one of {', '.join(FAMILIES)}")
    rng = Random(f"eval/{seed}/{family}/{language}/{withheld_phrasings}")
    seen: set[str] = set()
    found: list[Sample] = []
    attempts = 0
    while len(found) < n and attempts < 60 * n + 2000:
        attempts += 1
        drawn: Language = language or ("en" if len(found) % 2 == 0 else "zh")
        kind = "call" if family in ASKS else family
        sample = _draw(rng, kind, drawn, withheld_phrasings, family if family in ASKS else None)
        prompt = text_of(sample.prompt())
        if prompt in seen or not (withheld_phrasings or is_held_out(sample.user_text)):
            continue
        seen.add(prompt)
        found.append(sample)
    return found


def is_held_out(user_text: str) -> bool:
    """Whether `user_text` belongs to evaluation: a sixteenth of all texts, chosen by their CRC-32."""
    return zlib.crc32(user_text.encode()) % 16 == 0


def draw_basic(rng: Random, kind: str, language: Language, withheld: bool) -> Sample:
    """One sample of a kind of `stage_mix`."""
    return _draw(rng, kind, language, withheld)


def _draw(rng: Random, kind: str, language: Language, withheld: bool, family: str | None = None) -> Sample:
    if kind in CHATS:
        sample = _plain(rng, kind, language, withheld)
    elif kind == "direct":
        sample = _direct(rng, language, withheld)
    elif kind == "no_call":
        sample = _no_call(rng, language, withheld)
    else:
        family = family or rng.choices(tuple(_ASK_WEIGHTS), tuple(_ASK_WEIGHTS.values()))[0]
        sample = _tool_turn(rng, family, language, withheld, reading=kind == "reading")
    return sample


def _tool_turn(rng: Random, family: str, language: Language, withheld: bool, reading: bool) -> Sample:
    ask = ASKS[family](rng, language, withheld)
    tools = schema.toolbox(rng, ask.operation, rng.choice((1, 1, 2, 2, 3)), language)
    chosen = next(tool for tool in tools if ask.operation in tool.spec.serves)
    arguments = chosen.arguments(ask.operation, ask.arguments)
    messages = _opening(rng, language)
    if not reading and rng.random() < 0.05:
        messages += _earlier(rng, family, language, tools)
    messages += [{"role": "user", "content": ask.text}, tool_call_message(chosen.name, arguments)]
    expected = Expected(name=chosen.name, arguments=arguments)
    if reading:
        result, answer, fact = _outcome(rng, language, ask)
        messages += [{"role": "tool", "content": result}, {"role": "assistant", "content": answer}]
        expected = Expected(fact=fact)
    schemas = tuple(tool.tool for tool in tools)
    return Sample(
        "reading" if reading else family, "reading" if reading else "call", language, tuple(messages), schemas, expected, ask.phrasing, withheld
    )  # fmt: skip


def _earlier(rng: Random, family: str, language: Language, tools: Sequence[schema.Dressed]) -> list[Message]:
    """A question answered with the help of one of the `tools`, or nothing if none of them serves what was drawn."""
    ask = ASKS[family](rng, language, False)
    server = next((tool for tool in tools if ask.operation in tool.spec.serves), None)
    if server is None or is_held_out(ask.text):
        return []
    result, answer, _ = _outcome(rng, language, ask)
    return [
        {"role": "user", "content": ask.text},
        tool_call_message(server.name, server.arguments(ask.operation, ask.arguments)),
        {"role": "tool", "content": result},
        {"role": "assistant", "content": answer},
    ]


def _outcome(rng: Random, language: Language, ask: Ask) -> tuple[str, str, str]:
    """What the tool returns, the answer to it, and what must stand in the answer: now and then an error."""
    if rng.random() < 0.06:
        error = rng.choice(_ERRORS)
        answer = f"The tool reported an error: {error}." if language == "en" else f"工具报错：{error}。"
        return f"{rng.choice(('error: ', 'Error: '))}{error}", answer, error
    if rng.random() < 0.25:
        shown = ask.result if ask.result.replace(".", "").isdigit() else f'"{ask.result}"'
        return f'{{"result": {shown}}}', ask.answer, ask.fact
    return ask.result, ask.answer, ask.fact


def _direct(rng: Random, language: Language, withheld: bool) -> Sample:
    text, phrasing, tools, name, arguments = direct.draw(rng, language, withheld, rng.choice((1, 2, 2, 3)))
    messages = ({"role": "user", "content": text}, tool_call_message(name, arguments))
    expected = Expected(name=name, arguments=arguments)
    return Sample("direct", "call", language, messages, tuple(tools), expected, phrasing, withheld)


def _plain(rng: Random, family: str, language: Language, withheld: bool) -> Sample:
    said = CHATS[family](rng, language, withheld)
    messages = (
        *_opening(rng, language, turns=False),
        {"role": "user", "content": said.text},
        {"role": "assistant", "content": said.answer},
    )
    return Sample(family, "plain", language, messages, (), Expected(fact=said.fact), said.phrasing, withheld)


def _no_call(rng: Random, language: Language, withheld: bool) -> Sample:
    """Tools are there, but the question needs none, or needs one that is missing (then the model says so)."""
    count = rng.choice((1, 1, 2, 2, 3))
    if rng.random() < 0.5:
        said = CHATS[rng.choice(tuple(CHATS))](rng, language, withheld)
        text, answer, fact, phrasing = said.text, said.answer, said.fact, said.phrasing
        tools = schema.toolbox(rng, None, count, language)
    else:
        ask = ASKS[rng.choice(tuple(ASKS))](rng, language, withheld)
        text, answer, phrasing = ask.text, REFUSAL[language], ask.phrasing
        fact = answer
        tools = schema.toolbox(rng, None, count if rng.random() < 0.85 else 0, language, avoid=(ask.operation,))
    messages = (*_opening(rng, language), {"role": "user", "content": text}, {"role": "assistant", "content": answer})
    schemas = tuple(tool.tool for tool in tools)
    return Sample("no_call", "no_call", language, messages, schemas, Expected(fact=fact), phrasing, withheld)


def _opening(rng: Random, language: Language, turns: bool = True) -> list[Message]:
    """What may stand before the user's question: a short system prompt, a greeting with its answer."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(_SYSTEM[language])})
    if turns and rng.random() < 0.05:
        said = greetings.chat(rng, language, False)
        messages += [{"role": "user", "content": said.text}, {"role": "assistant", "content": said.answer}]
    return list(messages)
