"""Leases in the loop: told in time, asked outside every lock, and alone with what they do wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from engine_support import PATIENCE_S, ByteTable, Inbox, ScriptedWorker, request, scheduler_config, spelling_worker
from lease_support import GivenLease

from deepseek.core.engine import Event, Finish, Lease, Request, Tokens, Usage
from deepseek.engine.loop import EngineLoop


def loop_saying(text: str, **changes: Any) -> EngineLoop:
    return EngineLoop(spelling_worker(text, 3), ByteTable(), scheduler_config(**changes), vocab_size=256)


def lent(lease: Lease, name: str = "r", **fields: Any) -> Request:
    return replace(request(name, **fields), lease=lease)


def start(loop: EngineLoop, asked: Request) -> Inbox:
    inbox = Inbox()
    loop.add(asked, inbox.receive)
    return inbox


def steps(loop: EngineLoop) -> int:
    """As many as there are to do; the books are checked after each."""
    count = 0
    while loop.step():
        loop.scheduler.check()
        count += 1
    return count


def test_the_stream_ends_with_the_last_token_granted_in_the_same_step() -> None:
    loop = loop_saying("hello world")
    found = start(loop, lent(GivenLease(5, True), max_tokens=20))
    for _ in range(5):
        assert loop.step()
    assert found.finish == Finish("r", ("budget",), Usage(3, 5))
    assert found.text() == "hello" and not loop.has_work


def test_the_end_may_come_while_the_use_of_the_last_token_is_told() -> None:
    class Last(GivenLease):
        def use(self, tokens: int) -> None:
            super().use(tokens)
            self.final = tokens == self.granted

    loop = loop_saying("hello world")
    found = start(loop, lent(Last(3), max_tokens=20))
    assert steps(loop) == 3
    assert found.finish is not None and found.finish.reasons == ("budget",)


def test_text_held_back_is_shown_where_a_budget_ends_it() -> None:
    loop = loop_saying("one EN, two")
    found = start(loop, lent(GivenLease(6, True), max_tokens=20, stop=("END",)))
    steps(loop)
    assert found.text() == "one EN" and found.finish is not None and found.finish.reasons == ("budget",)


def test_a_stop_that_the_last_token_completes_is_a_stop() -> None:
    loop = loop_saying("one END two")
    found = start(loop, lent(GivenLease(7, True), max_tokens=20, stop=("END",)))
    steps(loop)
    assert found.text() == "one " and found.finish is not None and found.finish.reasons == ("stop",)


def test_a_request_waits_for_more_and_says_what_it_would_have_said() -> None:
    lease = GivenLease(2)
    loop = loop_saying("hello world")
    found = start(loop, lent(lease, max_tokens=11))
    for expected in ("he", "hello", "hello world"):
        steps(loop)
        assert found.text() == expected and not loop.step()
        lease.granted += 3 if expected == "he" else 100
    assert found.finish == Finish("r", ("length",), Usage(3, 11))
    assert lease.used == list(range(1, 12))


def test_others_go_on_meanwhile() -> None:
    loop = loop_saying("hello world")
    waits = start(loop, lent(GivenLease(1), "waits", max_tokens=11))
    other = start(loop, request("other", max_tokens=11))
    steps(loop)
    assert waits.text() == "h" and waits.finish is None
    assert other.text() == "hello world" and other.finish is not None


def test_use_counts_all_choices_once_a_step_and_before_anybody_gets_the_tokens() -> None:
    order: list[str] = []

    class Noting(GivenLease):
        def use(self, tokens: int) -> None:
            super().use(tokens)
            order.append(f"used {tokens}")

    def sink(events: list[Event]) -> None:
        got = sum(len(event.token_ids) for event in events if isinstance(event, Tokens))
        order.append(f"got {got}")

    loop = loop_saying("abc")
    loop.add(lent(Noting(8), n=3, max_tokens=3), sink)
    steps(loop)
    assert order == ["used 3", "got 3", "used 6", "got 3", "used 8", "got 2"]
    loop.end_all("cancelled")


def test_what_is_about_a_prompt_alone_leaves_its_lease_alone() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    loop = loop_saying("abc")
    asked = lent(Untouchable(), max_tokens=0, prompt_logprobs=0)  # type: ignore[arg-type]
    scored, embedded = start(loop, asked), start(loop, replace(asked, id="embedded", task="embed"))
    steps(loop)
    assert scored.finish is not None and scored.finish.reasons == ("length",)
    assert embedded.finish is not None and embedded.finish.reasons == ("stop",)


class Panic(BaseException):
    """As a library in another language raises it."""


@pytest.mark.parametrize("failure", [RuntimeError("the database is gone"), Panic("unreachable")])
@pytest.mark.parametrize("where", ["granted", "final", "use"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_lease_that_raises_ends_its_request_alone(
    where: str, after: int, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    class Broken:
        tokens = 0

        def check(self, what: str) -> None:
            if what == where and self.tokens >= after:
                raise failure

        @property
        def granted(self) -> int:
            self.check("granted")
            return 100

        @property
        def final(self) -> bool:
            self.check("final")
            return False

        def use(self, tokens: int) -> None:
            self.tokens = tokens
            self.check("use")

        def watch(self, changed: Callable[[], None]) -> None:
            raise AssertionError("nobody waits here")

    loop = loop_saying("hello world")
    others = [start(loop, request("before", max_tokens=11))]
    broken = start(loop, lent(Broken(), "broken", n=2, max_tokens=11))
    others.append(start(loop, lent(GivenLease(100), "after", max_tokens=11)))
    steps(loop)
    assert broken.finish is not None and broken.finish.reasons == ("error", "error")
    assert broken.finish.error == f"its lease failed: {type(failure).__name__}"
    assert broken.finish.usage.completion_tokens == len(broken.ids(0)) + len(broken.ids(1))
    for other in others:
        assert other.text() == "hello world" and other.finish is not None and other.finish.reasons == ("length",)
    assert loop.load().blocks_used == 0 and not loop.has_work


def test_no_lock_is_held_while_a_lease_is_asked_or_told() -> None:
    loop = loop_saying("hello world")
    asked: set[str] = set()

    def another_thread_gets_through(what: str) -> None:
        asked.add(what)
        other = threading.Thread(target=lambda: (loop.load(), loop.end("nobody", "cancelled")))
        other.start()
        other.join(PATIENCE_S)
        assert not other.is_alive()

    class Asking(GivenLease):
        def __getattribute__(self, name: str) -> Any:
            if name in ("granted", "final", "use"):
                another_thread_gets_through(name)
            return super().__getattribute__(name)

    found = start(loop, lent(Asking(2, True), max_tokens=20))
    steps(loop)
    assert found.finish is not None and found.finish.reasons == ("budget",)
    assert asked == {"granted", "final", "use"}


def test_an_abort_while_the_use_is_told_ends_the_request_once() -> None:
    class Aborting(GivenLease):
        def use(self, tokens: int) -> None:
            super().use(tokens)
            if tokens == 2:
                loop.end("r", "cancelled")

    loop = loop_saying("hello world")
    found = start(loop, lent(Aborting(9), max_tokens=20))
    steps(loop)
    assert found.finish is not None and found.finish.reasons == ("cancelled",)
    assert found.text() == "he" and loop.load().blocks_used == 0


def test_a_request_of_the_same_id_has_nothing_to_do_with_the_lease_of_one_that_ended() -> None:
    class Leaving(GivenLease):
        def use(self, tokens: int) -> None:
            loop.end("r", "cancelled")
            found.append(start(loop, request("r", max_tokens=3)))
            raise RuntimeError("too late")

    found: list[Inbox] = []
    loop = loop_saying("hello world")
    first = start(loop, lent(Leaving(9)))
    steps(loop)
    assert first.finish is not None and first.finish.reasons == ("cancelled",)
    assert found[0].finish is not None and found[0].finish.reasons == ("length",)


def test_a_loop_that_starts_anew_ends_those_with_leases_too() -> None:
    loop = loop_saying("hello world")
    found = start(loop, lent(GivenLease(2), max_tokens=20))
    steps(loop)
    loop.reset("error", "torn apart")
    assert found.finish is not None and found.finish.reasons == ("error",)
    again = start(loop, lent(GivenLease(2, True), max_tokens=20))
    steps(loop)
    assert again.finish is not None and again.finish.reasons == ("budget",)


def test_ready_tells_how_long_a_request_waited_for_its_first_step() -> None:
    now = 100.0
    worker = ScriptedWorker()
    loop = EngineLoop(worker, ByteTable(), scheduler_config(max_sequences=1), clock=lambda: now)
    first = start(loop, request("first", max_tokens=2))
    second = start(loop, request("second", max_tokens=2))
    compute = worker.run

    def slowly(plan: Any) -> Any:
        nonlocal now
        now += 10.0
        return compute(plan)

    worker.run = slowly  # type: ignore[method-assign]
    now = 101.5
    steps(loop)
    assert first.ready is not None and first.ready.queued_s == 1.5
    assert second.ready is not None and second.ready.queued_s == 21.5
