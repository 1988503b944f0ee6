"""From token ids to shown text: stop strings over token borders, half characters, and what is held back."""

from __future__ import annotations

import pytest
from engine_support import ByteTable
from hypothesis import given
from hypothesis import strategies as st

from deepseek.engine.output import ChoiceOutput


def pieces(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], ChoiceOutput]:
    output = ChoiceOutput(ByteTable(), stops)
    return [output.push([byte]) for byte in text.encode()], output


def test_a_character_is_shown_when_its_last_byte_is_there() -> None:
    shown, output = pieces("a你b")
    assert shown == ["a", "", "", "你", "b"]
    assert output.end() == ""


def test_half_a_character_at_the_end_shows_as_a_replacement() -> None:
    output = ChoiceOutput(ByteTable(), ())
    assert output.push("你".encode()[:2]) == ""
    assert output.end() == "\ufffd"


def test_the_beginning_of_a_stop_string_is_held_back_and_shown_if_nothing_comes_of_it() -> None:
    shown, output = pieces("one EN", ("END",))
    assert "".join(shown) == "one "
    assert output.end() == "EN"


def test_a_stop_string_ends_the_text_before_it() -> None:
    shown, output = pieces("one END two", ("END",))
    assert "".join(shown) == "one "
    assert output.stopped
    assert output.end() == ""


@given(
    text=st.text(alphabet="ab你é", max_size=20),
    stop=st.text(alphabet="ab你", min_size=1, max_size=4),
    cut=st.integers(1, 7),
)
def test_the_text_is_all_before_the_first_stop_however_it_is_cut(text: str, stop: str, cut: int) -> None:
    output = ChoiceOutput(ByteTable(), (stop,))
    data = text.encode()
    shown = "".join(output.push(data[start : start + cut]) for start in range(0, len(data), cut)) + output.end()
    assert shown == text.partition(stop)[0]
    assert output.stopped == (stop in text)


def test_a_tokenizer_that_fails_is_not_hidden() -> None:
    with pytest.raises(RuntimeError):
        ChoiceOutput(ByteTable(broken={7}), ()).push([7])
