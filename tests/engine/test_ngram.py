"""Prompt lookup: what followed the same tokens before, found in one step and in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.engine.speculation import ngram
from deepseek.engine.speculation.ngram import NgramIndex


def guess(tokens: list[int], limit: int = 4) -> list[int]:
    index = NgramIndex()
    index.follow(tokens)
    return index.guess(tokens, limit)


def test_what_followed_the_last_two_tokens_before_is_guessed() -> None:
    assert guess([1, 2, 7, 8, 9, 5, 1, 2]) == [7, 8, 9, 5]


def test_one_equal_token_is_no_match() -> None:
    assert guess([1, 2, 7, 8, 3, 2]) == []


def test_a_longer_match_beats_a_later_one() -> None:
    assert guess([4, 3, 1, 2, 50, 0, 9, 1, 2, 60, 0, 4, 3, 1, 2], 1) == [50]


def test_of_equal_matches_the_latest_counts() -> None:
    assert guess([8, 1, 2, 50, 9, 1, 2, 60, 7, 1, 2], 1) == [60]


def test_a_repetition_that_reaches_the_end_goes_on() -> None:
    assert guess([9, 5, 6, 5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]


@pytest.mark.parametrize("tokens", [[1], [1, 1], [1, 2, 3, 4]])
def test_nothing_is_guessed_where_nothing_came_up_twice(tokens: list[int]) -> None:
    assert guess(tokens) == []


def longest_latest(tokens: list[int]) -> int | None:
    """The first token of the right guess, by looking at every place."""
    best: tuple[int, int] | None = None
    for place in range(2, len(tokens)):
        match = 0
        while match < 4 and match < place and tokens[place - 1 - match] == tokens[len(tokens) - 1 - match]:
            match += 1
        if match >= 2 and (best is None or match >= best[0]):
            best = match, place
    return None if best is None else tokens[best[1]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(1, 5), max_size=4))
def test_the_index_finds_what_a_search_finds_however_the_tokens_came(tokens: list[int], cuts: list[int]) -> None:
    index = NgramIndex()
    for cut in [*sorted(cuts), len(tokens)]:
        index.follow(tokens[:cut] if cut <= len(tokens) else tokens)
    expected = longest_latest(tokens)
    assert index.guess(tokens, 1) == ([] if expected is None else [expected])


def test_what_lies_too_far_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "WINDOW", 50)
    index = NgramIndex()
    tokens = [1, 2, 3]
    for step in range(2000):
        tokens.append(10 + step)
        index.follow(tokens)
        assert len(index) <= 50
    assert index.guess([*tokens, 1, 2], 2) == []
