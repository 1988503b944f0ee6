"""Control tokens of the fake engine: told by their places where a request asks for them, silent where not."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.engine import Event, Finish, Request, Tokens
from deepseek.core.sampling import SamplingParams
from deepseek.engine.fake import VOCABULARY, FakeEngine, say

CALL, END = "<call>", "</call>"
CONTROLS = (CALL, END)


def events_of(text: str, **sampling: object) -> list[Event]:
    async def main() -> list[Event]:
        engine = FakeEngine(reply=say(text, CONTROLS), controls=CONTROLS, ttft_s=0.0, inter_token_s=0.0)
        request = Request("r", (1, 2, 3), SamplingParams(max_tokens=500, **sampling))  # type: ignore[arg-type]
        return [event async for event in engine.generate(request)]

    return asyncio.run(main())


def told(events: list[Event]) -> tuple[str, list[int]]:
    """The text, and where in it control tokens begin."""
    text, places = "", []
    for event in events:
        if isinstance(event, Tokens):
            places += [len(text) + at for at in event.controls]
            text += event.text
    return text, places


@given(st.lists(st.sampled_from(["a", "你", "<", CALL, END, "call>"]), max_size=20).map("".join))
def test_their_places_are_told_where_they_are_asked_for(text: str) -> None:
    places = [at for at in range(len(text)) if text.startswith(CONTROLS, at)]
    assert told(events_of(text, skip_special_tokens=False)) == (text, places)
    silent = text.replace(CALL, "").replace(END, "")
    assert told(events_of(text)) == (silent, [])


def test_a_control_token_is_one_token_with_an_id_beyond_the_bytes() -> None:
    events = events_of(f"a{END}", skip_special_tokens=False)
    assert [event.token_ids for event in events if isinstance(event, Tokens)] == [(0x61,), (VOCABULARY + 1,)]
    finish = events[-1]
    assert isinstance(finish, Finish) and finish.usage.completion_tokens == 2


def test_it_may_stop_a_choice() -> None:
    events = events_of(f"a{END}b", skip_special_tokens=False, stop_token_ids=(VOCABULARY + 1,))
    assert told(events) == ("a", [])
    finish = events[-1]
    assert isinstance(finish, Finish) and finish.reasons == ("stop",)


def test_text_spelt_like_one_is_none() -> None:
    async def main() -> list[Event]:
        engine = FakeEngine(reply=say(CALL), controls=CONTROLS, ttft_s=0.0, inter_token_s=0.0)
        request = Request("r", (1,), SamplingParams(max_tokens=500, skip_special_tokens=False))
        return [event async for event in engine.generate(request)]

    assert told(asyncio.run(main())) == (CALL, [])
