"""Patterns, slips and numbers in words: what they may change and what they may not."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.training.curriculum.paraphrase import lexicon
from deepseek.training.curriculum.paraphrase.frames import EN_DO, EN_WHAT, ZH_DO, ZH_WHAT
from deepseek.training.curriculum.paraphrase.grammar import (
    dress_up,
    expand,
    full_width,
    is_withheld_reading,
    normal,
    roughen,
    say,
    say_or_none,
    tidy,
)
from deepseek.training.curriculum.paraphrase.numbers import in_chinese, in_english, spoken
from deepseek.training.curriculum.several import WIDE

languages = st.sampled_from(["en", "zh"])
seeds = st.integers(0, 2**32)


def test_a_pattern_reads_as_each_of_its_choices() -> None:
    rng = Random(0)
    assert {expand(rng, "[a|b[c|d]|]x") for _ in range(200)} == {"ax", "bcx", "bdx", "x"}


def test_a_text_is_tidied_without_touching_slots() -> None:
    assert tidy("en", "what  is {a} ?") == "What is {a}?"
    assert tidy("zh", "{a}  加{b}？") == "{a} 加{b}？"


@given(seeds, languages)
def test_no_slip_touches_what_is_to_be_copied(seed: int, language: Any) -> None:
    rng = Random(seed)
    template = "Please multiply {a} by {b} for me." if language == "en" else "请帮我把{a}乘以{b}，谢谢。"
    slots = {"a": "Xy_42, z", "b": "ＡＢ？"}
    text = dress_up(rng, language, template, False, **slots)
    assert all(value in text for value in slots.values())


@given(seeds, languages)
def test_slips_keep_every_slot_once(seed: int, language: Any) -> None:
    rough = roughen(Random(seed), language, "could you tell me {x} and {y}?")
    assert rough.count("{x}") == rough.count("{y}") == 1


def test_a_tenth_of_the_readings_is_withheld_whatever_their_case_and_punctuation() -> None:
    readings = [f"phrasing number {i}" for i in range(3000)]
    assert 240 < sum(map(is_withheld_reading, readings)) < 360
    assert all(is_withheld_reading(r) == is_withheld_reading(r.upper() + "?!") for r in readings[:200])


def test_a_reading_is_on_the_side_that_was_asked_for_and_never_one_to_avoid() -> None:
    rng = Random(1)
    pattern = "[what is|tell me|calculate|find] [the sum|the total|a number|it] [now|please|today|for me]"
    avoided = frozenset({normal("What is it now")})
    for withheld in (False, True):
        for _ in range(100):
            template = say(rng, "en", lambda: pattern, avoided, withheld)
            assert is_withheld_reading(template) == withheld and normal(template) not in avoided
    assert say_or_none(rng, "en", "one reading alone", not is_withheld_reading("one reading alone")) == ""


@pytest.mark.parametrize("frames", [EN_WHAT, EN_DO, ZH_WHAT, ZH_DO])
def test_every_frame_has_one_place_for_what_is_asked(frames: tuple[str, ...]) -> None:
    for frame in frames:
        assert frame.count("<x>") + frame.count("<do>") == 1
        assert frame.count("[") == frame.count("]")


@pytest.mark.parametrize("family", WIDE)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_family_is_asked_in_many_ways_and_never_shows_its_brackets(family: str, language: Any) -> None:
    rng = Random(2)
    texts = [WIDE[family](rng, language, False, False).text for _ in range(300)]
    assert len(set(texts)) > 240
    assert not any(mark in text for text in texts for mark in ("[", "]", "{", "}", "<x>", "<do>"))


def read_chinese(text: str) -> int:
    """The number a Chinese numeral below ten thousand means."""
    total, digit = 0, 0
    for character in text:
        if character in "千百十":
            total += (digit or 1) * {"千": 1000, "百": 100, "十": 10}[character]
            digit = 0
        elif character != "零":
            digit = "零一二三四五六七八九".index(character)
    return total + digit


def test_chinese_numerals_mean_their_numbers() -> None:
    for value in range(10_000):
        assert read_chinese(in_chinese(value)) == value
    assert [in_chinese(n) for n in (0, 10, 12, 20, 105, 110, 1001, 3200)] == [
        "零", "十", "十二", "二十", "一百零五", "一百一十", "一千零一", "三千二百",
    ]  # fmt: skip


def test_english_numbers_are_written_as_they_are_said() -> None:
    assert [in_english(n) for n in (0, 7, 13, 40, 42, 100, 205, 999)] == [
        "zero", "seven", "thirteen", "forty", "forty-two", "one hundred", "two hundred and five", "nine hundred and ninety-nine",
    ]  # fmt: skip
    assert len({in_english(n) for n in range(1000)}) == 1000


@given(seeds, languages, st.integers(0, 10**6))
def test_a_number_is_shown_as_digits_or_in_words(seed: int, language: Any, value: int) -> None:
    shown = spoken(Random(seed), language, str(value))
    digits = shown.replace(",", "").translate(str.maketrans("０１２３４５６７８９", "0123456789"))
    assert digits == str(value) or not any(c.isdigit() for c in shown)


def test_full_width_digits_are_the_same_digits() -> None:
    assert full_width(Random(0), "2026-11", 1) == "２０２６-１１"


@given(seeds, languages)
def test_a_wild_word_is_neither_empty_nor_a_format(seed: int, language: Any) -> None:
    rng = Random(seed)
    for text in (lexicon.wild(rng, language), lexicon.wild_phrase(rng, language)):
        assert text.strip() == text and text
        assert not set("{}[]<>") & set(text)
