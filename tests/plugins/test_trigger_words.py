"""Trigger words: whole words where a script has spaces, anywhere where it has none, in whatever case, width or form."""

import string
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepseek.plugins.triggers import Triggers, normalised

HAN = "搜索最新今天新闻查找一下请帮我"
han_text = st.text(HAN, max_size=20)
word = st.text(string.ascii_letters + string.digits + "éßÄñжЯ", min_size=1, max_size=8)


def found(text: str, *words: str) -> bool:
    return Triggers(words).found_in(normalised(text))


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("please SEARCH for it", "search"),
        ("search", "Search"),
        ("(search)", "search"),
        ("re-search", "search"),
        ("请search一下", "search"),
        ("ｓｅａｒｃｈ now", "search"),
        ("今天的最新消息", "最新"),
        ("最新", "最新"),
        ("ｶﾀｶﾅで", "カタカナ"),
        ("한국어를 검색을 하다", "검색"),
        ("look\n  up the word", "look up"),
        ("in C++, please", "c++"),
        ("STRASSE", "straße"),
        ("cafe\u0301 crème", "café"),
        ("查api吧", "查API"),
        ("ΣΟΦΟΣ", "σοφος"),
    ],
)
def test_a_trigger_word_is_found(text: str, trigger: str) -> None:
    assert found(text, trigger)


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("a researcher", "search"),
        ("searching", "search"),
        ("search2", "search"),
        ("search_engine", "search"),
        ("最近的新闻", "最新"),
        ("outlook up there", "look up"),
        ("lookup", "look up"),
        ("查apis吧", "查API"),
        ("searche\u0301", "search"),
        ("हिन्दी में", "हिन"),
        ("", "search"),
    ],
)
def test_what_only_looks_like_a_trigger_word_is_not_found(text: str, trigger: str) -> None:
    assert not found(text, trigger)


@given(st.text(HAN, min_size=1, max_size=4), han_text, han_text)
def test_a_chinese_word_is_found_wherever_it_stands(trigger: str, before: str, after: str) -> None:
    assert found(before + trigger + after, trigger)


@given(st.text(HAN, min_size=1, max_size=4), han_text)
def test_a_chinese_word_is_found_exactly_where_it_is_a_part(trigger: str, text: str) -> None:
    assert found(text, trigger) == (trigger in text)


@given(word, st.lists(word, max_size=8), st.sampled_from([" ", ", ", "。", "\n", "查"]))
def test_a_word_of_letters_is_found_exactly_among_the_words(trigger: str, words: list[str], between: str) -> None:
    forms = [normalised(one) for one in words]
    assert found(between.join(words), trigger) == (normalised(trigger) in forms)


@given(word, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.booleans())
def test_form_and_case_make_no_difference(trigger: str, form: str, upper: bool) -> None:
    written = unicodedata.normalize(form, trigger.upper() if upper else trigger)
    assume(normalised(written) == normalised(trigger))  # ŉ and its like have no upper case of their own
    assert found(f"one {written} more", trigger)


@given(
    st.lists(st.text(min_size=1, max_size=6).filter(lambda text: bool(normalised(text).strip())), min_size=1), st.text()
)
def test_no_word_and_no_text_is_too_strange(words: list[str], text: str) -> None:
    triggers = Triggers(words)
    assert isinstance(triggers.found_in(normalised(text)), bool)
    for one in words:
        assert triggers.found_in(normalised(f" {one} ").replace("  ", " "))


def test_a_thousand_words_are_looked_for_together() -> None:
    triggers = Triggers([f"word{number}" for number in range(1000)] + [f"词{number}号" for number in range(24)])
    assert triggers.found_in(normalised("say Word999!")) and triggers.found_in(normalised("第词7号"))
    assert not triggers.found_in(normalised("word1000, words1, sword1"))


@given(st.text(st.one_of(st.sampled_from("，！？：；（）～…\u3000\u00a0\u0338\u0301Aa"), st.characters())))
def test_the_form_is_unicodes(text: str) -> None:
    once = unicodedata.normalize("NFKC", text).casefold()
    assert normalised(text) == unicodedata.normalize("NFKC", once)


def test_a_word_of_spaces_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Triggers(["search", " \u3000"])
