"""From token ids to shown text: stop strings over token borders, half characters, and what is held back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

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


class ControlTable(ByteTable):
    """Tokens 256 and 257 are control tokens; 256 is also special."""

    literals: ClassVar = {256: "<｜a｜>", 257: "<b>"}

    def shown_token(self, token_id: int, skip_special: bool) -> str | None:
        if token_id in self.literals:
            return None if skip_special and token_id == 256 else self.literals[token_id]
        return super().shown_token(token_id, skip_special)

    def is_control(self, token_id: int) -> bool:
        return token_id in self.literals

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        parts = [self.literals[i].encode() if i in self.literals else bytes([i]) for i in ids]
        return b"".join(parts).decode(errors="replace")


def shown(
    ids: list[int], cuts: list[int], stops: tuple[str, ...] = (), skip_special: bool = False
) -> tuple[str, list[int]]:
    """The text, and the control tokens in it by where they begin, of ids that come cut at these places."""
    output = ChoiceOutput(ControlTable(), stops, skip_special)
    text, controls, places = "", [], sorted({0, *cuts, len(ids)})
    for a, b in itertools.pairwise(places):
        piece = output.push(ids[a:b])
        controls += [len(text) + at for at in output.controls()]
        text += piece
    rest = output.end()
    controls += [len(text) + at for at in output.controls()]
    return text + rest, controls


def test_control_tokens_are_shown_with_where_they_begin_if_asked_for() -> None:
    ids = [256, *b"hi <b>", 257, 257]
    assert shown(ids, [2, 5]) == ("<｜a｜>hi <b><b><b>", [0, 11, 14])
    assert shown(ids, [2, 5], skip_special=True) == ("hi <b><b><b>", [])


def test_half_a_character_before_a_control_token_does_not_move_it() -> None:
    assert shown([*"你".encode()[:2], 257], []) == ("\ufffd<b>", [1])


def test_a_control_token_that_a_stop_string_holds_back_is_told_with_its_text() -> None:
    output = ChoiceOutput(ControlTable(), ("x<b>!",), skip_special=False)
    assert (output.push(list(b"ax")), output.controls()) == ("a", ())
    assert (output.push([257]), output.controls()) == ("", ())
    assert (output.push(list(b"?")), output.controls()) == ("x<b>?", (1,))


def test_a_control_token_behind_a_stop_is_not_told() -> None:
    assert shown([*b"a<END", 257], [1, 2, 3], stops=("END",)) == ("a<", [])


@given(
    ids=st.lists(st.sampled_from([256, 257, *b"<ab>x", 0xE4, 0xBD, 0xA0]), max_size=16),
    cuts=st.lists(st.integers(0, 16), max_size=6),
    stop=st.sampled_from(["", "b>x", "<b><b>", "｜>a", "<", "x\ufffd"]),
)
def test_control_tokens_are_where_their_literals_begin_however_the_ids_are_cut(
    ids: list[int], cuts: list[int], stop: str
) -> None:
    stops = (stop,) if stop else ()
    whole = shown(ids, [], stops)
    assert shown(ids, [cut for cut in cuts if cut <= len(ids)], stops) == whole
    assert shown(ids, list(range(len(ids))), stops) == whole
    text, controls = whole
    unstopped, all_controls = shown(ids, [])
    assert unstopped.startswith(text) and unstopped == ControlTable().decode(ids)
    assert controls == [at for at in all_controls if at < len(text)]
    literals = [ControlTable.literals[i] for i in ids if i in ControlTable.literals]
    assert [unstopped.startswith(literal, at) for literal, at in zip(literals, all_controls, strict=True)] == [
        True for _ in literals
    ]
