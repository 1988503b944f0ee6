"""What the stream parsers' tests share: feeding a text in pieces, and reading deltas as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from typing import Any

from hypothesis import strategies as st

from deepseek.chat.markup import Markup
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart

Controls = Sequence[int]
Answer = list[tuple[str, ...]]
"""("text", what), ("thinking", what), ("call", name, arguments, "complete" | "cut off") in order."""


def numbered() -> Any:
    numbers = count()
    return lambda: f"call-{next(numbers)}"


def fed(parser: StreamParser, pieces: Iterable[str], controls: Controls = ()) -> list[Delta]:
    """All deltas of a text that arrives in these pieces."""
    deltas: list[Delta] = []
    at = 0
    for piece in pieces:
        inside = [control - at for control in controls if at <= control < at + len(piece)]
        deltas += parser.feed(piece, inside)
        at += len(piece)
    return deltas + parser.close()


def answer_of(deltas: Iterable[Delta]) -> Answer:
    """The deltas as a whole: neighbours of one kind joined, a call's pieces put together. Checks that they make sense."""
    answer: list[list[str]] = []
    calls: list[list[str]] = []
    ids: set[str] = set()
    for delta in deltas:
        match delta:
            case TextDelta(text) | ThinkingDelta(text):
                assert text, "an empty delta"
                kind = "text" if isinstance(delta, TextDelta) else "thinking"
                if answer and answer[-1][0] == kind:
                    answer[-1][1] += text
                else:
                    answer.append([kind, text])
            case ToolCallStart(index, call_id, name):
                assert index == len(calls) and name and call_id not in ids
                ids.add(call_id)
                calls.append(["call", name, "", "cut off"])
                answer.append(calls[-1])
            case ToolCallArguments(index, text):
                assert index == len(calls) - 1 and text and calls[-1][3] == "cut off"
                calls[-1][2] += text
            case ToolCallEnd(index):
                assert index == len(calls) - 1 and calls[-1][3] == "cut off"
                calls[-1][3] = "complete"
    return [tuple(part) for part in answer]


def read(
    markup: Markup,
    text: str,
    controls: Controls = (),
    *,
    cuts: Iterable[int] | None = None,
    tools: bool = True,
    thinking: bool = False,
    answering: bool = False,
) -> Answer:
    """What a parser makes of a text cut at these places."""
    places = sorted({0, len(text), *(cuts or ())})
    pieces = [text[a:b] for a, b in pairwise(places)]
    parser = markup.parser(tools=tools, thinking=thinking, answering=answering, new_id=numbered())
    return answer_of(fed(parser, pieces, controls))


def read_every_way(markup: Markup, text: str, controls: Controls = (), **named: Any) -> Answer:
    """The same for single characters, for every cut in two, and whole; all must agree."""
    whole = read(markup, text, controls, **named)
    assert read(markup, text, controls, cuts=range(len(text)), **named) == whole
    for place in range(1, len(text)):
        assert read(markup, text, controls, cuts=[place], **named) == whole, (text[:place], text[place:])
    return whole


def sampled(*pieces: str, tokens: Iterable[str]) -> tuple[str, list[int]]:
    """The pieces joined, and where those that are control tokens begin."""
    known, controls, at = set(tokens), [], 0
    for piece in pieces:
        if piece in known:
            controls.append(at)
        at += len(piece)
    return "".join(pieces), controls


def calls_of(answer: Answer) -> Answer:
    return [part for part in answer if part[0] == "call"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
