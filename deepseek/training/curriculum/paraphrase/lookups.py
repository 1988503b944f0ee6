"""Web search, as everybody asks. The query is a part of the user's text, exactly."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import search, words
from deepseek.training.curriculum.paraphrase import lexicon
from deepseek.training.curriculum.paraphrase.frames import Ways, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, normal, say
from deepseek.training.curriculum.phrasing import Ask, is_withheld
from deepseek.training.curriculum.sample import Language

EN: Ways = {
    "what": (),
    "do": (
        "search [for|] {q}", "search [the web|online|the internet|the net|google] for {q}", "[do|run|start|make] a [web |quick |google |]search [for|on|about] {q}", "look up {q}[ online| on the web| on the internet|]", "google {q}", "find [me |][information|info|something|pages|articles|websites|results|facts|news] [about|on] {q}", "find {q} [online|on the web|on the internet]", "look [online|on the web|on the internet] for {q}", "check [the web|online|the internet|google] for {q}", "[browse|scan|query] the [web|internet] for {q}",
        "find out [more |]about {q}[ online| on the web]", "search up {q}", "look for {q} [online|on the internet]", "[get|fetch|show] [me |][web |search |online |]results [for|about|on] {q}", "research {q}", "use [the |][web |]search [tool |][to find|for|to look up] {q}", "see what the [web|internet] [says|has] [about|on] {q}", "dig up [info|something|information] [on|about] {q}", "web search {q}",
    ),
    "tell": (
        "[search|web search|google|look up|query|lookup|find online]: {q}", "I [want|need|would like|'d like] to [read|know|learn|find out] [more |][about|on] {q}[. |, |; ][search for it|look it up|search the web|google it|find something online|please search].", "I'm looking for [information|info|something|pages|news] [about|on] {q}[ online| on the web].", "What [does|do] the [web|internet|search engine|search results] say about {q}?", "What [can you find|is there|do you find|comes up] [online|on the web|on the internet] about {q}?", "[Any|Is there any|Is there] [news|information|info] [online|on the web|on the internet] about {q}?",
        "What comes up when [you|I] search for {q}?", "{q}[. |, |: |? ][search for it|look it up|google it|search that online|web search please|find that on the web].", "I need [a web search|web results|search results] [for|about|on] {q}.", "Search results for {q}[ please|].",
    ),
}  # fmt: skip
ZH: Ways = {
    "what": (),
    "do": (
        "搜[索|一下|搜|一搜|]{q}", "[上网|在网上|网上|联网|去网上|到网上][搜|查|找|搜索|查找|搜一下|查一下|找一下|看看]{q}", "[百度|谷歌|必应|百度一下|谷歌一下]{q}", "[查|查找|找|找找|搜集|检索][一下|][关于|有关]{q}的[资料|信息|消息|内容|文章|新闻|网页]", "[用|打开]搜索[引擎|工具|]搜[索|一下|]{q}", "[在|从][互联网|网络|网]上[搜索|查找|找|搜]{q}", "检索{q}", "搜[索|]一下[关于|]{q}[的信息|]", "查[一查|查|一下]网上[的|关于]{q}", "看看网上[有没有|怎么说|关于]{q}", "网页搜索{q}", "[网上|]搜[搜|一搜]{q}[看看|]",
    ),
    "tell": (
        "[搜索|查询|检索|百度|网上查|搜]：{q}", "我想[了解|知道|看看|查][一下|]{q}[，|。][搜一下|上网查查|帮我搜|网上找找|百度一下]。", "网上[有|能查到|能找到][什么|哪些][关于|]{q}的[信息|资料|消息|内容|新闻]？", "网上[怎么|是怎么]说{q}[的|]？", "{q}[，|。|：][搜一下|帮我搜|上网查|查一下网上|百度一下|联网查一下]。", "[要|需要|给我|我要]{q}的[搜索结果|网上资料|网页]。", "有没有[网上的|]关于{q}的[消息|新闻|资料]？[上网查|搜一下]",
    ),
}  # fmt: skip
AVOID = frozenset(normal(text) for group in (search.EN, search.ZH) for i, text in enumerate(group) if is_withheld(i))


def query(rng: Random, language: Language) -> str:
    """A thing to look for, of the sort that people look for."""
    drawn = rng.random()
    if drawn < 0.2:
        return words.topic(rng, language)
    if drawn < 0.55:
        return lexicon.wild_phrase(rng, language)
    n = words.noun(rng, language) if rng.random() < 0.4 else lexicon.wild(rng, language)
    if language == "en":
        place = rng.choice(words.EN_PLACES if rng.random() < 0.3 else lexicon.EN_PROPER)
        name, adjective, verb = rng.choice(words.EN_NAMES if rng.random() < 0.3 else lexicon.EN_PROPER), rng.choice(words.EN_ADJECTIVES), rng.choice(words.EN_VERBS)  # fmt: skip
        return rng.choice((
            f"latest {n} news", f"the latest news about {n}", f"population of {place}", f"the population of {place}", f"weather in {place}", f"the weather in {place} tomorrow", f"capital of {place}", f"the capital of {place}", f"who is {name} {words.invented_word(rng)}", f"cheap flights to {place}", f"flights from {place} to {rng.choice(words.EN_PLACES)}",
            f"opening hours of the {n} in {place}", f"best {n}s {rng.randint(2019, 2030)}", f"{n} {adjective} {rng.choice(words.EN_NOUNS)}", f"how to {verb} {adjective} {n}s", f"what is a {n}", f"the history of {n}", f"history of {place}", f"{words.invented_word(rng)} {words.invented_word(rng)}", f"{name}'s {n}", f"python {words.word(rng, language).lower()} error", f"how tall is {words.invented_word(rng).capitalize()} tower",
            f"{place} to {rng.choice(words.EN_PLACES)} distance", f"recipe for {n}", f"{adjective} {n} recipe", f"the tallest {n} in {place}", f"symptoms of {words.invented_word(rng)}", f"{n} vs {rng.choice(words.EN_NOUNS)}", f"price of {n}", f"the price of {n}", f"{rng.choice(words.EN_NOUNS)} near me", f"height of Mount {words.invented_word(rng).capitalize()}", f"meaning of {words.invented_word(rng)}", f"{place} {rng.choice(('museum', 'hotel', 'marathon', 'airport'))} {words.integer(rng, 4)}",
            f"who won the {n} {rng.choice(('cup', 'prize', 'race'))} in {rng.randint(1950, 2030)}", f"when was {words.invented_word(rng).capitalize()} founded", f"{n}", f"{n}s", f"{name} {n} {place}", f"things to do in {place}", f"current {n} price", f"exchange rate {rng.choice(('euro', 'dollar', 'yen'))} {rng.choice(('pound', 'yuan', 'franc'))}",
        ))  # fmt: skip
    place = rng.choice(words.ZH_PLACES if rng.random() < 0.4 else lexicon.ZH_MORE_PLACES)
    name, adjective, verb = rng.choice(words.ZH_NAMES) if rng.random() < 0.5 else lexicon.any_han(rng, 2, 3), rng.choice(words.ZH_ADJECTIVES), rng.choice(words.ZH_VERBS)  # fmt: skip
    return rng.choice((
        f"最新{n}新闻", f"{place}的人口", f"{place}人口", f"{place}明天天气", f"{place}的天气", f"{place}的首都", f"{name}是谁", f"去{place}的机票", f"{place}到{rng.choice(words.ZH_PLACES)}的高铁", f"{place}{n}开放时间", f"{rng.randint(2019, 2030)}年最好的{n}", f"如何{verb}{n}", f"怎么{verb}{adjective}{n}", f"什么是{n}", f"{place}的历史", f"{name}的{n}", f"{n}做法", f"{n}多少钱", f"{place}最高的{n}",
        f"{n}和{rng.choice(words.ZH_NOUNS)}的区别", f"{place}旅游攻略", f"{place}好玩的地方", f"{words.han_string(rng)}是什么意思", f"{n}最新消息", f"{name}个人简介", f"{rng.choice(words.ZH_NOUNS)}怎么选", f"今天的{n}价格", f"{words.han_string(rng)}山的高度", f"{n}", f"{words.invented_word(rng)} {n}", "美元兑人民币汇率", f"{rng.randint(1950, 2030)}年{n}冠军", f"{place}{rng.choice(('美食', '房价', '大学', '地铁图', '博物馆'))}",
    ))  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """A search, and a one-line result to report."""
    wanted = query(rng, language)
    template = say(rng, language, lambda: framed(rng, language, EN if language == "en" else ZH), AVOID, withheld)
    shown = wanted
    if rng.random() < 0.07:
        left, right = ('"', '"') if language == "en" else ("“", "”")
        shown = left + wanted + right
    return found(rng, language, dress_up(rng, language, template, bare, q=shown), "wide/search", wanted)


def found(rng: Random, language: Language, text: str, phrasing: str, wanted: str, always: bool = False) -> Ask:
    """The call, and what the search brings: nothing (unless `always`), a line, or a few of which the first is told."""
    arguments = {"query": wanted}
    if not always and rng.random() < 0.06:
        nothing = "I found nothing." if language == "en" else "没有查到。"
        return Ask(text, phrasing, "search", arguments, "no results", nothing, nothing)
    first = _snippet(rng, language)
    lines = [first, *(_snippet(rng, language) for _ in range(rng.choice((0, 0, 1, 2))))]
    drawn = rng.random()
    if drawn < 0.45:
        lines = [f"{line} ({_address(rng)})" for line in lines]
    elif drawn < 0.55 and len(lines) > 1:
        lines = [f"{place}. {line}" for place, line in enumerate(lines, 1)]
    answer = f"I found this: {first}" if language == "en" else f"我查到：{first}"
    return Ask(text, phrasing, "search", arguments, "\n".join(lines), answer, first)


def _address(rng: Random) -> str:
    """Where a page is from."""
    host = f"{lexicon.likely_word(rng)}.{rng.choice(('com', 'org', 'net', 'cn', 'io', 'edu', 'de'))}"
    return f"https://{rng.choice(('', 'www.', 'en.'))}{host}/{rng.choice(('', lexicon.likely_word(rng), words.random_string(rng)))}"


def _snippet(rng: Random, language: Language) -> str:
    """One line of a result page, now and then of wilder words."""
    if rng.random() < 0.4:
        return search.snippet(rng, language)
    said = lexicon.wild_phrase(rng, language, 7 if rng.random() < 0.8 else 18)
    return rng.choice(
        (f"{said}.", said, f"{lexicon.wild(rng, language).capitalize()}: {said}")
        if language == "en"
        else (f"{said}。", said, f"{lexicon.wild(rng, language)}：{said}")
    )
