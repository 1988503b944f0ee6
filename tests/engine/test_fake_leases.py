"""The fake engine keeps to leases as the real one does, at its own pace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_support import Budget, GivenLease
from test_fake import events_of, finish_of, read, request, text_of, with_engine

from deepseek.core.engine import Event, Finish, Lease, Ready, Request, Tokens, Usage
from deepseek.core.errors import EngineError
from deepseek.engine.fake import FakeEngine, VirtualTime, say


def lent(lease: Lease, name: str = "r", **rest: Any) -> Request:
    return replace(request(name, **({"max_tokens": 20} | rest)), lease=lease)


def test_the_stream_ends_with_the_last_token_granted_at_the_same_moment() -> None:
    lease = GivenLease(5, True)

    async def body(engine: FakeEngine, time: VirtualTime) -> tuple[list[Event], float]:
        return await read(engine, lent(lease)), time.now()

    events, ended = with_engine(body, reply=say("hello world"))
    assert text_of(events) == "hello" and finish_of(events) == Finish("r", ("budget",), Usage(3, 5))
    assert ended == 5.0 + 4 * 1.0 and lease.used == [1, 2, 3, 4, 5]


def test_a_choice_that_ends_by_itself_with_the_last_token_keeps_its_reason() -> None:
    assert finish_of(events_of(lent(GivenLease(5, True), max_tokens=5))).reasons == ("length",)
    assert finish_of(events_of(lent(GivenLease(5, True), stop=("lo",)), reply=say("hello"))).reasons == ("stop",)


def test_fewer_tokens_than_choices_go_to_those_of_lower_index() -> None:
    events = events_of(lent(GivenLease(5, True), n=3), reply=say("abc"))
    assert [text_of(events, choice) for choice in range(3)] == ["ab", "ab", "a"]
    assert finish_of(events) == Finish("r", ("budget",) * 3, Usage(3, 5))


def test_text_held_back_is_shown_where_a_budget_ends_it() -> None:
    events = events_of(lent(GivenLease(6, True), stop=("END",)), reply=say("one EN, two"))
    assert text_of(events) == "one EN" and finish_of(events).reasons == ("budget",)


@pytest.mark.parametrize("thread", [False, True])
def test_a_request_waits_for_more_while_others_go_on(thread: bool) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[Event]:
        lease = GivenLease(2)
        waits = asyncio.create_task(read(engine, lent(lease, "waits", max_tokens=11)))
        other = await read(engine, request("other", max_tokens=11))
        assert text_of(other) == "hello world" and not waits.done()
        assert time.now() == 15.0 and lease.used == [1, 2]
        if thread:
            giver = threading.Thread(target=lambda: lease.give(100))
            giver.start()
            giver.join()
        else:
            lease.give(100)
        events = await waits
        assert time.now() == 15.0 + 9.0
        return events

    assert text_of(with_engine(body, reply=say("hello world"))) == "hello world"


def test_without_a_first_token_nothing_begins_and_ready_tells_how_long_that_took() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[Event]:
        lease = GivenLease()
        reading = asyncio.create_task(read(engine, lent(lease, max_tokens=2)))
        await time.sleep(7.0)
        lease.give(9)
        events = await reading
        assert time.now() == 7.0 + 5.0 + 1.0
        return events

    ready = with_engine(body)[0]
    assert isinstance(ready, Ready) and ready.queued_s == 7.0


def test_ready_tells_how_long_a_request_waited_for_its_place() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[float]:
        both = await asyncio.gather(*(read(engine, request(name, max_tokens=3)) for name in "ab"))
        return [events[0].queued_s for events in both if isinstance(events[0], Ready)]

    assert with_engine(body, max_running=1) == [0.0, 7.0]


@pytest.mark.parametrize("granted", [0, 2])
def test_a_deadline_and_an_abort_end_a_request_that_waits_for_its_lease(granted: int) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        late = asyncio.create_task(read(engine, lent(GivenLease(granted), "late", deadline=30.0)))
        aborted = asyncio.create_task(read(engine, lent(GivenLease(granted), "aborted")))
        await time.sleep(20.0)
        await engine.abort("aborted")
        assert finish_of(await aborted) == Finish("aborted", ("cancelled",), Usage(3, granted))
        assert finish_of(await late) == Finish("late", ("deadline",), Usage(3, granted))
        assert time.now() == 30.0

    with_engine(body)


def test_what_is_about_a_prompt_alone_leaves_its_lease_alone() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        asked = lent(GivenLease(0, True))
        await engine.score(asked)
        await engine.encode(asked)

    with_engine(body)


@pytest.mark.parametrize("where", ["granted", "final", "use", "watch"])
def test_a_lease_that_raises_ends_its_request_alone(where: str) -> None:
    class Broken(GivenLease):
        def __getattribute__(self, name: str) -> Any:
            if name == where and (name == "watch" or super().__getattribute__("used")):
                raise RuntimeError("no")
            return super().__getattribute__(name)

        def use(self, tokens: int) -> None:
            self.used.append(tokens)

    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        other = asyncio.create_task(read(engine, request("other")))
        if where == "watch":
            with pytest.raises(EngineError, match="lease failed"):
                engine.generate(lent(Broken(1)))
        else:
            finish = finish_of(await read(engine, lent(Broken(5))))
            assert finish.reasons == ("error",) and finish.error == "RuntimeError: no"
        assert finish_of(await other).reasons == ("length",)

    with_engine(body)


def test_a_lease_may_grow_after_its_reader_is_gone() -> None:
    lease = GivenLease(1)

    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        stream = engine.generate(lent(lease))
        await anext(stream)
        del stream
        await time.sleep(0.0)
        lease.give(1)

    with_engine(body)
    lease.give(1)  # the event loop is closed


grants = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 9), st.booleans()), max_size=6)


@given(st.integers(1, 3), st.integers(0, 9), grants)
def test_whatever_a_lease_does_it_is_kept_and_changes_no_token(
    n: int, first: int, plan: list[tuple[float, int, bool]]
) -> None:
    whole = events_of(request(n=n, max_tokens=12))
    lease = GivenLease(first)

    async def body(engine: FakeEngine, time: VirtualTime) -> list[Event]:
        reading = asyncio.create_task(read(engine, lent(lease, n=n, max_tokens=12, deadline=1000.0)))
        for at, tokens, final in sorted(plan):
            await time.sleep(max(0.0, at - time.now()))
            if not lease.final:
                lease.give(tokens, final)
        if not lease.final:
            lease.give(0, True)
        return await reading

    events = with_engine(body)
    finish = finish_of(events)
    assert finish.usage.completion_tokens <= lease.granted
    for choice, reason in enumerate(finish.reasons):
        text = text_of(events, choice)
        assert text_of(whole, choice).startswith(text)
        assert reason == ("length" if len(text) == 12 else "budget")
    assert "budget" not in finish.reasons or finish.usage.completion_tokens == lease.granted


def test_64_streams_on_one_budget_use_it_up_and_not_a_token_more() -> None:
    budget = Budget(1500, 8)

    async def one(engine: FakeEngine, index: int) -> int:
        lease = budget.lease()
        events = await read(engine, lent(lease, f"r{index}", n=1 + index % 3, max_tokens=200))
        assert set(finish_of(events).reasons) == {"budget"}
        told = sum(len(event.token_ids) for event in events if isinstance(event, Tokens))
        assert told == finish_of(events).usage.completion_tokens == lease.used
        return told

    async def body(engine: FakeEngine, time: VirtualTime) -> int:
        return sum(await asyncio.gather(*(one(engine, index) for index in range(64))))

    assert with_engine(body) == 1500


def test_a_request_that_waits_asks_its_lease_again_only_when_that_says_so() -> None:
    class Counting(GivenLease):
        asked = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "final":
                type(self).asked += 1
            return super().__getattribute__(name)

    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        lease = Counting(1)
        reading = asyncio.create_task(read(engine, lent(lease)))
        await time.sleep(8.0)
        lease.give(0)
        await time.sleep(500.0)
        assert Counting.asked == 2
        lease.give(1, True)
        assert finish_of(await reading).reasons == ("budget",)

    with_engine(body)


def test_watchers_may_be_called_before_the_request_has_begun() -> None:
    class Eager(GivenLease):
        def watch(self, changed: Callable[[], None]) -> None:
            changed()

    assert finish_of(events_of(lent(Eager(3, True)))).reasons == ("budget",)
