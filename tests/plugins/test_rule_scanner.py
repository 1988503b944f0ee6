"""What rules find, held against the standard library's patterns and against every way to cut a text."""

import re
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.plugins.moderation.folding import folded, is_word
from deepseek.plugins.moderation.pattern import of_regex, of_term
from deepseek.plugins.moderation.scanner import MAX_SPAN_CHARS, Automaton, Match, Scanner

REGEXES = (
    "a", "ab", "a|b", "ab|abc", "a+b", "(ab)+", "a?b", "[ab]c", "[^a]b", "a{2,3}", "a{2}", "(a|ab)(c|bcd)", "a.c", r"\d+", r"\ba",
    r"a\b", r"\bab\b", r"\w\s\w", "a*b", "(a|b)*c", "(?:a?b){1,3}c", r"[\d-]+a", "a{1,}?b",
)  # fmt: skip


def scanned(automaton: Automaton, pieces: Sequence[str]) -> list[str | Match]:
    scanner = Scanner(automaton)
    found: list[str | Match] = []
    for at, piece in enumerate(pieces):
        found += scanner.feed(piece, last=at == len(pieces) - 1)
    return found


def matches(automaton: Automaton, *pieces: str) -> list[tuple[int, int, int]]:
    return [(found.rule, found.start, found.end) for found in scanned(automaton, pieces) if isinstance(found, Match)]


def expected(pattern: str, text: str) -> Iterator[tuple[int, int, int]]:
    """Leftmost, longest, not overlapping: by trying every place."""
    begins, ends = pattern.startswith(r"\b"), pattern.endswith(r"\b")
    inner = re.compile(pattern.removeprefix(r"\b").removesuffix(r"\b"), re.IGNORECASE)

    def fits(start: int, end: int) -> bool:
        if begins and start and is_word(text[start]) and is_word(text[start - 1]):
            return False
        if ends and end < len(text) and is_word(text[end]) and is_word(text[end - 1]):
            return False
        return inner.fullmatch(text, start, end) is not None

    start = 0
    while start < len(text):
        end = next((end for end in range(len(text), start, -1) if fits(start, end)), None)
        if end is not None:
            yield 0, start, end
        start = end or start + 1


@pytest.mark.parametrize("pattern", REGEXES)
@given(text=st.text("abcd 1-x", max_size=14))
def test_a_pattern_finds_what_the_standard_library_finds(pattern: str, text: str) -> None:
    assert matches(Automaton([of_regex(pattern)]), text) == list(expected(pattern, text))


@given(
    text=st.text("abc 最新\u200bＡé", max_size=24),
    terms=st.lists(st.text("abc最新 ", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 24), max_size=6),
)
def test_it_is_the_same_wherever_a_text_is_cut(text: str, terms: list[str], cuts: list[int]) -> None:
    automaton = Automaton([*map(of_term, terms), of_regex("a+b?"), of_regex(r"\b新c\b")])
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert matches(automaton, *pieces) == matches(automaton, text)
    whole = scanned(automaton, pieces)
    assert "".join(piece.text if isinstance(piece, Match) else piece for piece in whole) == text


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("bad", "a bad day", "bad"),
        ("bad", "BAD!", "BAD"),
        ("bad", "badge", None),
        ("bad", "请bad一下", "bad"),
        ("bad", "ｂａｄ", "ｂａｄ"),
        ("bad", "b\u200ba\u00add", "b\u200ba\u00add"),
        ("坏词", "这是坏词吗", "坏词"),
        ("坏词", "坏\u200b词", "坏\u200b词"),
        ("坏词", "坏话", None),
        ("project falcon", "the Project \n Falcon!", "Project \n Falcon"),
        ("café", "CAFE", "CAFE"),
        ("cafe", "cafe\u0301", "cafe\u0301"),
        ("c++", "use C++.", "C++"),
    ],
)
def test_a_term_is_found_as_people_write_it(term: str, text: str, found: str | None) -> None:
    texts = [piece.text for piece in scanned(Automaton([of_term(term)]), [text]) if isinstance(piece, Match)]
    assert texts == ([] if found is None else [found])


def test_nothing_is_held_that_cannot_come_to_something() -> None:
    scanner = Scanner(Automaton([of_term("坏词"), of_term("secret word")]))
    assert list(scanner.feed("你好")) == ["你好"]
    assert list(scanner.feed("这坏")) == ["这"]
    assert list(scanner.feed("人")) == ["坏人"]
    assert list(scanner.feed(" a secret ")) == [" a "]
    assert list(scanner.feed("garden")) == ["secret garden"]


def test_what_is_held_is_bounded() -> None:
    scanner = Scanner(Automaton([of_regex("a.*b")]))
    text = "a" * 2000
    let_go = "".join(piece for piece in scanner.feed(text) if isinstance(piece, str))
    assert len(text) - len(let_go) <= MAX_SPAN_CHARS


def test_a_match_is_found_after_a_beginning_that_came_to_nothing_in_time() -> None:
    automaton = Automaton([of_regex("a.*b")])
    text = "a" + "x" * MAX_SPAN_CHARS * 2 + "a" + "y" * 10 + "b"
    assert [found[2] for found in matches(automaton, text)] == [len(text)]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*b", "(.*a){12}c", "(x+x+)+y"])
def test_patterns_that_take_others_for_ever_take_a_time_linear_in_the_text(pattern: str) -> None:
    automaton = Automaton([of_regex(pattern.rstrip("$"))])
    began = time.perf_counter()
    matches(automaton, ("a" * 2000) + ("x" * 2000))
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    "pattern",
    ["", "(", "[a", "(?=a)", "(?<n>a)", r"(a)\1", "^a", "a$", "a*", "a?", "a{500}", "((a{99}){99})", r"a\bb", "[[a]"],
)
def test_what_is_no_pattern_of_the_kind_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        of_regex(pattern)


@given(st.text(max_size=30))
def test_the_form_of_a_text_has_its_length(text: str) -> None:
    assert len(folded(text)) == len(text)


@given(st.text(r"ab\()[]{}|?*+.,1-^$dws", max_size=12))
def test_any_pattern_is_taken_or_refused(pattern: str) -> None:
    try:
        automaton = Automaton([of_regex(pattern)])
    except ConfigError:
        return
    matches(automaton, "ab 1-w")


def test_ten_thousand_terms_cost_little_a_character() -> None:
    automaton = Automaton([of_term(f"词{number}语") for number in range(10_000)])
    text = "这是一个普通的句子, nothing in it is a term. " * 1000
    began = time.perf_counter()
    assert matches(automaton, text) == []
    assert time.perf_counter() - began < 2
