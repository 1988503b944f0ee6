"""A reader with no use for pieces: woken for the first tokens and for the end, and told the same as every other."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.engine import Event, Finish, PromptScores, Ready, Request, TokenLogprob, Tokens, Usage
from deepseek.core.sampling import SamplingParams
from deepseek.engine.fake import FakeEngine
from deepseek.engine.stream import MOST_KEPT, Mailbox, compact, put

FINISH = Finish("r", ("stop", "stop"), Usage(1, 9))


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    text = draw(st.text("ab", max_size=3))
    ids = tuple(draw(st.lists(st.integers(0, 9), max_size=2)))
    logprobs = tuple(TokenLogprob(token, -1.0) for token in ids) or None
    controls = (0,) if text and draw(st.booleans()) else ()
    return Tokens("r", draw(st.integers(0, 2)), text, ids, logprobs, draw(st.integers(0, 1)), controls)


events = st.lists(
    st.one_of(tokens(), st.builds(PromptScores, st.just("r"), st.integers(0, 3), st.just(()))), max_size=30
)


def unread(given: Sequence[Event]) -> list[Event]:
    waiting: deque[Event] = deque()
    for event in given:
        put(waiting, event)
    return list(waiting)


@given(events)
def test_joining_many_at_once_is_joining_them_one_by_one(given: list[Event]) -> None:
    assert compact(given) == unread(given)


def test_a_mailbox_read_as_a_whole_wakes_its_reader_for_the_first_tokens_and_for_the_end() -> None:
    async def run() -> None:
        mailbox = Mailbox("r", whole=True)
        step = [Tokens("r", 0, "a", (1,)), Tokens("r", 1, "b", (2,))]
        mailbox.receive([Ready("r", 7), *step])
        await asyncio.sleep(0)
        assert mailbox.arrived.is_set()
        mailbox.arrived.clear()
        first, mailbox.events = list(mailbox.events), deque()
        assert first == [Ready("r", 7), *step]
        for _ in range(10 * MOST_KEPT):
            mailbox.receive(list(step))
        await asyncio.sleep(0)
        assert not mailbox.arrived.is_set()
        mailbox.receive([*step, FINISH])
        await asyncio.sleep(0)
        assert mailbox.arrived.is_set()
        many = 10 * MOST_KEPT + 1
        assert list(mailbox.events) == [
            Tokens("r", 0, "a" * many, (1,) * many),
            Tokens("r", 1, "b" * many, (2,) * many),
            FINISH,
        ]

    asyncio.run(run())


async def _told(whole: bool) -> tuple[int, str, list[int], Finish]:
    engine = FakeEngine(ttft_s=0.0, inter_token_s=0.0)
    request = Request("r", (1, 2, 3), SamplingParams(max_tokens=50, seed=1))
    got = [event async for event in engine.generate(replace(request, whole=whole))]
    await engine.close()
    pieces = [event for event in got if isinstance(event, Tokens)]
    assert isinstance(got[-1], Finish)
    return len(pieces), "".join(p.text for p in pieces), [i for p in pieces for i in p.token_ids], got[-1]


def test_the_fake_engine_tells_such_a_reader_the_same_in_two_pieces() -> None:
    many, *piecewise = asyncio.run(_told(False))
    few, *whole = asyncio.run(_told(True))
    assert whole == piecewise
    assert many == 50 and few == 2
