"""Copying: repeat a text, or look one up in a list. This comes first in the curriculum; all tool calls stand on it."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.phrasing import Chat, choose, compose
from deepseek.training.curriculum.sample import Language

EN_REPEAT = (
    "Repeat: {x}", "Say {x}", "Repeat after me: {x}", "Copy this: {x}", "Echo {x}", "Please repeat the following: {x}", "Write {x}", "Type {x}",
    "Print {x}", "Answer with exactly this: {x}", "Just say {x}", "Give me back these words: {x}", "Return the text {x}", "Please write: {x}",
    "Repeat this word for word: {x}", "Can you say {x}", "Output: {x}", "Now copy: {x}", "I want to see {x}", "Reproduce this: {x}",
    "Quote: {x}", "Please echo this back to me: {x}", "Send me {x}", "Reply with {x}", "Respond only with {x}",
)  # fmt: skip
EN_LOOKUP = (
    "{list}. What is {k}?", "Given {list}, what is {k}?", "{list}. Give me {k}.", "Here is a list: {list}. Find {k}.", "From {list}, tell me {k}.",
    "Look at {list}. Which value has {k}?", "I have {list}. Say the value of {k}.", "In {list}, what does {k} stand for?", "{list}. And {k}?", "Use {list} to answer: {k}?",
    "The table says {list}. Read out {k}.", "If {list}, then {k} is what?", "{list}. Value of {k}?", "Read {list} and return {k}.", "Values: {list}. Pick {k}.",
)  # fmt: skip
ZH_REPEAT = (
    "重复：{x}", "请说{x}", "跟我说：{x}", "复制：{x}", "请重复下面的话：{x}", "写出{x}", "输出{x}", "打印{x}", "请原样回答：{x}", "只说{x}", "照着念：{x}", "把这句话还给我：{x}", "返回文本{x}",
    "请写：{x}", "一字不差地重复：{x}", "你能说{x}", "照抄：{x}", "回复{x}", "请复述：{x}", "念一遍：{x}", "再说一遍：{x}", "原样输出：{x}", "发给我{x}", "请回答{x}", "只回复：{x}",
)  # fmt: skip
ZH_LOOKUP = (
    "{list}。{k}是什么？", "已知{list}，{k}是多少？", "{list}。给我{k}。", "这是列表：{list}。找出{k}。", "从{list}中告诉我{k}", "看{list}，{k}的值是？", "我有{list}，说出{k}的值", "在{list}里，{k}代表什么？",
    "{list}。那么{k}呢？", "根据{list}回答：{k}？", "表中写着{list}，读出{k}", "如果{list}，那么{k}是？", "{list}。{k}的值？", "读{list}，返回{k}", "数值：{list}。选出{k}。",
)  # fmt: skip


def chat(rng: Random, language: Language, withheld: bool) -> Chat:
    """Something to repeat, or a list of pairs and one key."""
    english = language == "en"
    if rng.random() < 0.55:
        text = _text(rng, language)
        phrasings = EN_REPEAT if english else ZH_REPEAT
        # Undressed: in "Say x Thanks!" nobody could tell where x ends.
        template, phrasing = choose(rng, f"{language}/copying/repeat", phrasings, withheld)
        return Chat(template.format(x=text), phrasing, text, text)
    pairs: dict[str, str] = {}
    while len(pairs) < rng.choice((2, 3, 4)):
        pairs[words.word(rng, language) if rng.random() < 0.6 else words.random_string(rng)] = _item(rng, language)
    joiner = rng.choice((" = ", ": ", " is ") if english else ("=", "：", "是"))
    listed = (", " if english else "，").join(f"{key}{joiner}{value}" for key, value in pairs.items())
    key = rng.choice(tuple(pairs))
    said, phrasing = compose(
        rng, language, "copying/lookup", EN_LOOKUP if english else ZH_LOOKUP, withheld, list=listed, k=key
    )
    return Chat(said, phrasing, pairs[key], pairs[key])


def _text(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.06:
        return words.rare_characters(rng)
    if drawn < 0.25:
        return words.random_string(rng, 3, 14)
    if drawn < 0.4:
        return words.number(rng, 10)
    if drawn < 0.55:
        return words.topic(rng, language)
    if drawn < 0.65:
        return f"{words.number(rng, 4)} {rng.choice('+-*/')} {words.number(rng, 4)}"
    joiner = " " if language == "en" else ""
    return joiner.join(words.word(rng, language) for _ in range(rng.randint(1, 8)))


def _item(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.4:
        return words.integer(rng)
    return words.random_string(rng) if drawn < 0.7 else words.word(rng, language)
