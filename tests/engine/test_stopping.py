"""What a reader of a stream may rely on when stop strings are set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.engine.stopping import StopMatcher

STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
TEXT = st.text("ab", max_size=30)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown, stopped = "", None
    for piece in pieces:
        emitted, stopped = matcher.push(piece)
        shown += emitted
    return shown + matcher.flush(), stopped


def by_search(stops: list[str], text: str) -> tuple[str, str | None]:
    """The specification: look for the first end of any stop, then for the longest stop with that end."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_text_before_the_stop_is_shown_and_the_stop_is_not() -> None:
    assert run(["END"], ["some text END and more"]) == ("some text ", "END")


def test_a_stop_is_found_across_pieces() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("line\n") == ("line", None)
    assert matcher.push("\nnext") == ("", "\n\n")


def test_what_turned_out_not_to_be_a_stop_is_shown_with_the_next_piece() -> None:
    matcher = StopMatcher(["stop"])
    assert matcher.push("sto") == ("", None)
    assert matcher.push("ry") == ("story", None)


def test_a_stop_may_begin_inside_what_looked_like_its_own_beginning() -> None:
    assert run(["aab"], ["aa", "ab"]) == ("a", "aab")
    assert run(["ababac"], ["abab", "abac"]) == ("ab", "ababac")


def test_flush_shows_what_was_held_back() -> None:
    matcher = StopMatcher(["stop"])
    matcher.push("a sto")
    assert matcher.flush() == "sto"


def test_nothing_is_shown_after_a_stop() -> None:
    matcher = StopMatcher(["x"])
    matcher.push("ax")
    assert matcher.push("more") == ("", "x")
    assert matcher.flush() == ""


def test_without_stops_text_passes_at_once() -> None:
    assert StopMatcher([]).push("text") == ("text", None)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher([""])


@given(STOPS, st.text("ab", max_size=12))
def test_every_split_of_the_text_gives_what_a_search_of_the_whole_gives(stops: list[str], text: str) -> None:
    expected = by_search(stops, text)
    for cuts in range(1 << max(len(text) - 1, 0)):
        pieces, start = [], 0
        for i in range(1, len(text)):
            if cuts >> (i - 1) & 1:
                pieces.append(text[start:i])
                start = i
        assert run(stops, [*pieces, text[start:]]) == expected
        if len(text) > 8 and cuts > 256:
            break


@given(STOPS, TEXT)
def test_no_more_is_held_back_than_could_begin_a_stop(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for end, character in enumerate(text, start=1):
        emitted, stopped = matcher.push(character)
        shown += emitted
        if stopped is not None:
            break
        held = text[len(shown) : end]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
