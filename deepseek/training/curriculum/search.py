"""Web search: the query is a part of the user's text, exactly."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

EN = (
    "Search for {q}.", "Search the web for {q}", "Look up {q}.", "Google {q}", "Find information about {q}.", "Can you search for {q}?", "Please look up {q} online.",
    "I want to search for {q}.", "Find {q} on the internet.", "Do a web search: {q}", "What can you find online about {q}?", "Web search for {q}, please.",
    "Look on the web for {q}", "Search online for {q}.", "Get me search results for {q}.", "I'd like to read about {q}; search for it.", "See what the internet says about {q}.",
    "Find pages about {q}.", "Could you google {q} for me?", "Search: {q}", "Check the web for {q}.", "Help me find {q} online", "I am looking for {q} on the web.",
    "Use the search tool to find {q}.", "Look up this for me: {q}", "Find out about {q} on the internet", "Any news online about {q}?", "Please search {q}",
    "Run a search for {q}.", "Search the internet for {q} and tell me what you find.", "Find me something about {q}.", "What does the web say about {q}?",
    "Browse the web for {q}.", "Could you look up {q}?", "Query the search engine for {q}.", "I need web results about {q}.", "Try searching for {q}.",
    "Show me what you find when you search for {q}.", "Look online: {q}", "Let's search for {q}.", "Go online and look for {q}.", "Search engine query: {q}",
)  # fmt: skip
ZH = (
    "搜索{q}", "帮我搜一下{q}", "上网查一下{q}", "请搜索{q}。", "查找关于{q}的资料", "百度一下{q}", "在网上找找{q}", "网上搜索{q}", "我想搜{q}", "请在网上查{q}", "帮忙搜索一下{q}，谢谢",
    "搜一搜{q}", "用搜索工具查{q}", "查一查网上的{q}", "搜索：{q}", "网上有什么关于{q}的信息？", "能帮我搜{q}吗？", "找一下{q}的相关网页", "去网上看看{q}", "请帮我上网搜{q}", "我要在网上了解{q}",
    "联网搜索{q}", "上网搜搜{q}", "检索{q}", "请查询网页：{q}", "网上怎么说{q}？", "给我找些关于{q}的网页", "搜索一下“{q}”", "替我查查网上的{q}", "我需要{q}的搜索结果", "打开搜索引擎查{q}", "想上网查{q}",
    "看看网上有没有{q}", "麻烦上网找{q}", "搜索引擎里搜{q}", "请联网查一下{q}", "试着搜索{q}", "查网页：{q}", "到网上搜{q}看看", "帮我在互联网上找{q}", "我想看{q}的搜索结果", "搜一下{q}",
)  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """A search, and a one-line result to report."""
    english = language == "en"
    query = words.topic(rng, language)
    text, phrasing = compose(rng, language, "search", EN if english else ZH, withheld, q=query)
    result = snippet(rng, language)
    answer = f"I found this: {result}" if english else f"我查到：{result}"
    return Ask(text, phrasing, "search", {"query": query}, result, answer, result)


def snippet(rng: Random, language: Language) -> str:
    """One line of a result page. What it says is invented: it is there to be copied."""
    noun, name = words.noun(rng, language), words.name(rng, language)
    count = words.integer(rng, 4)
    if language == "en":
        place, adjective = rng.choice(words.EN_PLACES), rng.choice(words.EN_ADJECTIVES)
        return rng.choice(
            (
                f"{name} opened a {adjective} {noun} in {place}.", f"{place} has {count} {noun} shops.", f"The {noun} costs {count} dollars.",
                f"{adjective} {noun} guide by {name}", f"{noun}: {words.phrase(rng, language)}", f"In {rng.randint(1800, 2030)} {name} wrote about the {noun}.",
            )
        )  # fmt: skip
    place, adjective = rng.choice(words.ZH_PLACES), rng.choice(words.ZH_ADJECTIVES)
    return rng.choice(
        (
            f"{name}在{place}开了一家{noun}店。", f"{place}有{count}家{noun}店。", f"{noun}的价格是{count}元。", f"{name}写的{noun}指南",
            f"{noun}：{words.phrase(rng, language)}", f"{rng.randint(1800, 2030)}年，{name}介绍了{adjective}{noun}。",
        )
    )  # fmt: skip
