"""What is made of an engine's events: the parts of a whole answer, and how many of its tokens were thinking."""

import asyncio

import pytest
from tools_support import MARKUP, call, calls

from deepseek.api.spoken import Speech, gather
from deepseek.core.deltas import TextDelta
from deepseek.core.engine import Event, Finish, Ready, Tokens, Usage
from deepseek.core.errors import EngineError
from deepseek.core.messages import TextPart, ThinkingPart, ToolCallPart

SAID = "Hm.</think>Now" + calls(call("clock", at="x"), call("weather")) + "."


class Events:
    """A text in pieces of `size` characters, one token each."""

    def __init__(self, text: str, size: int, *, ends: bool = True) -> None:
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        self._left: list[Event] = [Ready("r", 7), *(Tokens("r", 0, piece, (1,)) for piece in pieces)]
        if ends:
            self._left.append(Finish("r", ("stop",), Usage(1, len(pieces))))

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_an_answer_has_the_same_parts_however_it_was_cut(size: int) -> None:
    parser = MARKUP.parser(tools=True, thinking=True, new_id=iter(("a", "b")).__next__)
    answer = asyncio.run(gather(Events(SAID, size), (parser,)))
    assert answer.choices[0].parts() == [
        ThinkingPart("Hm."),
        TextPart("Now"),
        ToolCallPart("a", "clock", '{"at": "x"}'),
        ToolCallPart("b", "weather", "{}"),
        TextPart("."),
    ]
    assert answer.seed == 7 and answer.choices[0].text == "Now." and answer.choices[0].thinking == "Hm."


def test_thinking_is_counted_token_by_token() -> None:
    parser = MARKUP.parser(tools=True, thinking=True)
    answer = asyncio.run(gather(Events("Hm.</think>Now", 1), (parser,)))
    assert answer.choices[0].thinking_tokens == len("Hm.")


def test_tokens_of_thinking_and_text_together_are_shared_out_by_length() -> None:
    parser = MARKUP.parser(tools=False, thinking=True)
    answer = asyncio.run(gather(Events("Hmmm</think>Nowx", 1000), (parser,)))
    assert 0 <= answer.choices[0].thinking_tokens <= 1


def test_a_call_that_was_cut_off_is_no_part_of_the_answer() -> None:
    parser = MARKUP.parser(tools=True)
    answer = asyncio.run(gather(Events("Now" + calls(call("clock", at="x"))[:-40], 3), (parser,)))
    assert answer.choices[0].parts() == [TextPart("Now")] and answer.choices[0].calls == []


def test_without_a_parser_text_is_text() -> None:
    assert list(Speech().of(Tokens("r", 0, "a<think>", (1,)))) == [TextDelta("a<think>")]
    assert Speech().rest() == {}


def test_events_without_an_end_are_a_failure_of_the_engine() -> None:
    with pytest.raises(EngineError, match="without a finish"):
        asyncio.run(gather(Events("x", 1, ends=False)))
