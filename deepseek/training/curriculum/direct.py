"""Calls spelt out by the user: ``Call velonu with mira=42``. The tool is invented, so all is read from schema and text."""

from __future__ import annotations

from random import Random
from typing import Any

from deepseek.training.curriculum import words
from deepseek.training.curriculum.phrasing import choose, decapitalise
from deepseek.training.curriculum.sample import Language, Tool
from deepseek.training.curriculum.schema import function_tool

EN = (
    "Call {f} with {a}.", "Use {f} with {a}", "Run {f} with {a}.", "Please call {f}: {a}", "Invoke {f} using {a}.", "{f}: {a}", "Execute {f} with {a}",
    "I want you to call {f} with {a}.", "Call the tool {f} with {a}.", "With {a}, run {f}.", "Try {f} with {a}.", "Start {f}, {a}.", "Can you run {f} with {a}?",
    "Do {f} with {a}.", "Now {f} with {a}", "Set {a} and call {f}.", "Apply {f} to {a}.", "Perform {f} with {a}", "Trigger {f}: {a}.", "Send {a} to {f}.",
    "The function {f} should get {a}.", "Let {f} run with {a}.", "Given {a}, call {f}", "Make a call to {f} with {a}.", "Feed {a} into {f}.",
    "Use the tool {f}: {a}.", "Please execute {f} now with {a}.", "Fire up {f} with {a}", "Pass {a} to {f}.", "Take {a} and use {f}.",
    "Kindly run {f} with {a}", "Could you invoke {f} with {a}?", "{f} please, with {a}", "I need {f} with {a}.", "Test {f} with {a}.",
    "Launch {f} with {a}", "Next step: {f} with {a}", "Help me call {f} with {a}.", "Process {a} by {f}.", "Request {f} with {a}",
)  # fmt: skip
ZH = (
    "调用{f}，{a}", "用{a}调用{f}", "运行{f}，参数{a}", "请调用{f}：{a}", "执行{f}，{a}", "{f}：{a}", "请用{a}运行{f}", "我想调用{f}，{a}", "调用工具{f}，{a}。", "以{a}执行{f}", "试试{f}，{a}", "启动{f}，{a}",
    "能运行{f}吗？{a}", "做一下{f}，{a}", "现在{f}，{a}", "设{a}，然后调用{f}", "对{a}使用{f}", "帮我执行{f}，{a}", "触发{f}：{a}", "把{a}传给{f}", "函数{f}的参数是{a}，请调用", "让{f}运行，{a}",
    "已知{a}，调用{f}", "发起对{f}的调用，{a}", "将{a}输入{f}", "使用工具{f}：{a}", "请现在执行{f}，{a}", "马上运行{f}，{a}", "把{a}交给{f}", "拿{a}去用{f}", "麻烦运行{f}，{a}", "可以调用{f}吗，{a}",
    "请{f}，{a}", "我需要{f}，{a}", "测试{f}，{a}", "开始{f}，{a}", "下一步：{f}，{a}", "帮忙调用{f}，{a}", "用{f}处理{a}", "请求{f}，{a}",
)  # fmt: skip


def draw(
    rng: Random, language: Language, withheld: bool, tools: int
) -> tuple[str, str, list[Tool], str, dict[str, Any]]:
    """The user's words, the phrasing, `tools` invented tools, and which one is called with which arguments."""
    made, name, arguments, listed = invent(rng, language, tools)
    template, phrasing = choose(rng, f"{language}/direct", EN if language == "en" else ZH, withheld)
    text = decapitalise(rng, template).format(f=name, a=listed)
    return text, phrasing, made, name, arguments


def invent(rng: Random, language: Language, tools: int) -> tuple[list[Tool], str, dict[str, Any], str]:
    """`tools` invented tools, the one that is called, its arguments, and how the user lists them."""
    made = [_invent(rng, language) for _ in range(tools)]
    tool = rng.choice(made)
    function = tool["function"]
    arguments: dict[str, Any] = {}
    for name, schema in function["parameters"]["properties"].items():
        arguments[name] = int(words.integer(rng)) if schema["type"] == "integer" else _string(rng, language)
    assign = rng.choice(
        ("{}={}", "{} = {}", "{} {}", "{}: {}") if language == "en" else ("{}={}", "{}为{}", "{}是{}", "{}：{}")
    )
    joiner = rng.choice((", ", " and ") if language == "en" else ("，", "、"))
    listed = joiner.join(assign.format(name, value) for name, value in arguments.items())
    return made, str(function["name"]), arguments, listed


def _invent(rng: Random, language: Language) -> Tool:
    names = [words.identifier(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    properties = {name: {"type": "integer" if rng.random() < 0.35 else "string"} for name in names}
    name = words.identifier(rng) if rng.random() < 0.7 else words.random_string(rng, 4, 8)
    return function_tool(name, words.topic(rng, language), properties, tuple(properties))


def _string(rng: Random, language: Language) -> str:
    return words.random_string(rng) if rng.random() < 0.5 else words.word(rng, language)
