"""The loop without threads: stops, faults and ends. Every request gets exactly one Finish, whatever happens."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from engine_support import ByteTable, GatedWorker, Inbox, ScriptedWorker, request, run, scripted_loop, spelling_worker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek.core.engine import Event, Finish, Tokens, Usage
from deepseek.core.errors import AdmissionError
from deepseek.engine.loop import EngineLoop
from deepseek.engine.plan import StepPlan
from deepseek.engine.result import StepResult
from deepseek.engine.scheduler_config import SchedulerConfig


def say(text: str, **sampling: object) -> Inbox:
    """What becomes of `text` under these parameters."""
    asked = request(**({"max_tokens": len(text.encode())} | sampling))  # type: ignore[arg-type]
    return run(scripted_loop(spelling_worker(text, 3)), [asked])["r"]


def reasons(inbox: Inbox) -> tuple[str, ...]:
    assert inbox.finish is not None
    return inbox.finish.reasons


def test_events_are_ready_then_tokens_then_finish() -> None:
    found = say("hello", seed=42)
    assert found.ready is not None and found.ready.seed == 42
    assert [type(event) for event in found.events[1:]] == [Tokens] * 5 + [Finish]
    assert found.text() == "hello"
    assert found.finish is not None and found.finish.usage == Usage(3, 5, 0)


def test_an_unset_seed_is_drawn_and_told() -> None:
    seeds = {say("x").ready.seed for _ in range(3)}  # type: ignore[union-attr]
    assert len(seeds) == 3


@pytest.mark.parametrize("stop", ["lo w", "o", "hello", "d"])
def test_a_stop_string_over_token_borders_ends_the_text_before_it(stop: str) -> None:
    found = say("hello world, and more", stop=(stop,))
    assert found.text() == "hello world".partition(stop)[0]
    assert reasons(found) == ("stop",)
    end = "hello world".index(stop) + len(stop)
    assert found.finish is not None and found.finish.usage.completion_tokens == end == len(found.ids())


def test_a_stop_string_completed_by_the_last_token_allowed_is_a_stop() -> None:
    found = say("one END", stop=("END",))
    assert (found.text(), reasons(found)) == ("one ", ("stop",))


def test_half_a_stop_string_at_the_end_is_shown() -> None:
    found = say("one EN", stop=("END",))
    assert (found.text(), reasons(found)) == ("one EN", ("length",))


def test_half_a_character_is_never_streamed_and_shown_as_a_replacement_at_the_end() -> None:
    found = say("a你好", max_tokens=6)
    assert [event.text for event in found.tokens()] == ["a", "", "", "你", "", "\ufffd"]


def test_a_stop_id_is_counted_and_not_shown() -> None:
    found = say("abcd", stop_token_ids=(ord("c"),))
    assert (found.text(), found.ids(), reasons(found)) == ("ab", list(b"abc"), ("stop",))


def test_the_text_held_back_before_a_stop_id_is_shown() -> None:
    found = say("one EN!", stop=("END",), stop_token_ids=(ord("!"),))
    assert (found.text(), reasons(found)) == ("one EN", ("stop",))


@pytest.mark.parametrize(("ignore_eos", "text", "reason"), [(False, "ab", "stop"), (True, "abcd", "length")])
def test_the_end_of_sequence_token_ends_unless_ignored(ignore_eos: bool, text: str, reason: str) -> None:
    loop = scripted_loop(spelling_worker("abcd", 3), eos_token_ids=frozenset({ord("c")}))
    found = run(loop, [request(max_tokens=4, ignore_eos=ignore_eos)])["r"]
    assert (found.text(), reasons(found)) == (text, (reason,))


def test_choices_stop_by_themselves_and_usage_counts_them_all() -> None:
    found = say("abcdef", n=3, stop=("cd",))
    assert [found.text(choice) for choice in range(3)] == ["ab"] * 3
    assert reasons(found) == ("stop",) * 3
    assert found.finish is not None and found.finish.usage == Usage(3, 12, 0)


def test_every_token_has_its_logprob() -> None:
    found = say("abc", logprobs=0)
    assert [logprob.token_id for logprob in found.logprobs()] == list(b"abc")


def test_a_prompt_id_outside_the_vocabulary_is_refused_before_it_can_fail_the_others() -> None:
    loop = scripted_loop(ScriptedWorker())
    for bad in (-1, 256):
        with pytest.raises(AdmissionError, match=rf"prompt: not a token id.*found {bad}; expected 0 to 255"):
            loop.add(request(prompt=(1, bad)), Inbox().receive)
    assert not loop.has_work


def test_a_refused_request_leaves_nothing_behind() -> None:
    loop = scripted_loop(ScriptedWorker(), max_waiting=1)
    with pytest.raises(AdmissionError, match="no room"):
        loop.add(request(prompt=[1] * 300), Inbox().receive)
    inbox = Inbox()
    loop.add(request("a"), inbox.receive)
    with pytest.raises(AdmissionError, match="a live request has this id"):
        loop.add(request("a"), Inbox().receive)
    with pytest.raises(AdmissionError, match="too many requests"):
        loop.add(request("b"), Inbox().receive)
    while loop.step():
        loop.scheduler.check()
    assert reasons(inbox) == ("length",)


def test_a_worker_that_fails_ends_the_requests_of_that_step_only() -> None:
    worker = ScriptedWorker()
    loop = scripted_loop(worker, max_sequences=2, max_tokens_per_step=8)
    inboxes = [Inbox() for _ in range(4)]
    for index, inbox in enumerate(inboxes):
        loop.add(request(f"r{index}", n=1 + index % 2), inbox.receive)
    whole, failures = worker.run, iter([RuntimeError("out of luck")] * 3)  # the step, and each of its two sequences

    def run_badly(plan: StepPlan) -> StepResult:
        for failure in failures:
            raise failure
        return whole(plan)

    worker.run = run_badly  # type: ignore[method-assign]
    while loop.step():
        loop.scheduler.check()
    ends = [reasons(inbox) for inbox in inboxes]
    assert ends[0] == ("error",)
    assert ends[2:] == [("length",), ("length", "length")]
    finish = inboxes[0].finish
    assert finish is not None and finish.error == "the model could not compute this step: RuntimeError"


def test_a_worker_that_returns_too_few_tokens_fails_its_step_and_no_more() -> None:
    worker = ScriptedWorker()
    loop = scripted_loop(worker)
    whole = worker.run
    worker.run = lambda plan: replace(whole(plan), token_ids=[])  # type: ignore[method-assign]
    assert reasons(run(loop, [request()])["r"]) == ("error",)
    worker.run = whole  # type: ignore[method-assign]
    assert reasons(run(loop, [request()])["r"]) == ("length",)


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_detokeniser_that_fails_ends_its_request_alone(at: int) -> None:
    """Also where it is the last token whose text cannot be made."""
    bad = 0x61 + (3 + at) % 10
    loop = scripted_loop(ScriptedWorker(), ByteTable(broken={bad}))
    found = run(loop, [request("broken"), request("sound", prompt=[1] * (4 + at), max_tokens=2)])
    assert reasons(found["broken"]) == ("error",)
    assert found["broken"].finish is not None and "its text could not be made" in (found["broken"].finish.error or "")
    assert reasons(found["sound"]) == ("length",)


def test_a_reader_that_raises_is_aborted_and_the_others_go_on() -> None:
    loop = scripted_loop(ScriptedWorker())
    seen: list[Event] = []

    def reader(events: list[Event]) -> None:
        seen.extend(events)
        raise OSError("gone")

    inbox = Inbox()
    loop.add(request("bad"), reader)
    loop.add(request("good"), inbox.receive)
    while loop.step():
        loop.scheduler.check()
    assert [type(event) for event in seen].count(Finish) == 1
    assert isinstance(seen[-1], Finish) and seen[-1].reasons == ("cancelled",)
    assert len(seen) <= 4  # told once more at most: within a step
    assert reasons(inbox) == ("length",)


def test_a_scheduler_that_fails_ends_everything_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = scripted_loop(ScriptedWorker())
    loop.scheduler.set_weights_version(3)
    inboxes = [Inbox(), Inbox()]
    for index, inbox in enumerate(inboxes):
        loop.add(request(f"r{index}", n=2), inbox.receive)
    loop.step()

    def broken(*_: object) -> None:
        raise AssertionError("torn")

    monkeypatch.setattr(loop.scheduler, "apply", broken)
    assert loop.step()
    for inbox in inboxes:
        assert reasons(inbox) == ("error", "error")
        assert inbox.finish is not None and inbox.finish.error == "the scheduler failed: AssertionError"
    assert not loop.has_work
    found = run(loop, [request("r0")])["r0"]
    assert reasons(found) == ("length",)
    assert {event.weights_version for event in found.tokens()} == {3}


def test_an_abort_ends_a_waiting_and_a_running_request_at_once() -> None:
    loop = scripted_loop(ScriptedWorker(), max_sequences=1)
    running, waiting = Inbox(), Inbox()
    loop.add(request("running"), running.receive)
    loop.add(request("waiting"), waiting.receive)
    loop.step()
    for name, inbox in (("waiting", waiting), ("running", running), ("nobody", running)):
        loop.end(name, "cancelled")
        loop.scheduler.check()
        assert reasons(inbox) == ("cancelled",)
    assert loop.load().blocks_used == 0
    assert not loop.step()


def test_an_abort_while_the_worker_computes_does_not_wait_and_nothing_comes_after_it() -> None:
    worker = GatedWorker(ScriptedWorker())
    loop = scripted_loop(worker)
    inbox, other = Inbox(), Inbox()
    loop.add(request("a"), inbox.receive)
    loop.add(request("b", max_tokens=1), other.receive)
    thread = threading.Thread(target=loop.step)
    thread.start()
    worker.wait_entered()
    loop.end("a", "cancelled")
    assert reasons(inbox) == ("cancelled",)
    worker.open()
    thread.join()
    loop.scheduler.check()
    assert reasons(other) == ("length",)


def test_a_deadline_ends_a_request_and_shows_the_text_held_back() -> None:
    now = [0.0]
    config = SchedulerConfig(num_blocks=32, max_model_len=64)
    loop = EngineLoop(spelling_worker("one EN, and", 3), ByteTable(), config, clock=lambda: now[0])
    inbox, late = Inbox(), Inbox()
    loop.add(request(max_tokens=60, deadline=5.0, stop=("END",), logprobs=0), inbox.receive)
    for _ in range(6):
        loop.step()
    assert inbox.text() == "one "
    loop.add(request("late", deadline=4.0), late.receive)
    now[0] = 5.0
    assert not loop.step()
    assert (inbox.text(), reasons(inbox)) == ("one EN", ("deadline",))
    assert len(inbox.logprobs()) == len(inbox.ids()) == 6
    assert (late.events[:-1], reasons(late)) == ([], ("deadline",))


def test_text_that_cannot_be_made_at_the_deadline_still_finishes() -> None:
    class Bad(ByteTable):
        decoder_kind = "window"

        def shown_token(self, token_id: int, skip_special: bool) -> str | None:
            return "<0xE4>"

        def decode(self, ids: object, skip_special: bool = True) -> str:
            raise RuntimeError("no")

    now = [0.0]
    config = SchedulerConfig(num_blocks=32, max_model_len=64)
    loop = EngineLoop(ScriptedWorker(), Bad(), config, clock=lambda: now[0])
    inbox = Inbox()
    loop.add(request(max_tokens=60, deadline=5.0), inbox.receive)
    loop.step()
    now[0] = 6.0
    loop.step()
    assert reasons(inbox) == ("error",)


GRAMMAR_FAULTS = ["", "masks", "accept", "forced", "valid_prefix", "done"]


class FaultyMatcher:
    """Allows everything, and breaks in one of its methods now and then."""

    def __init__(self, fault: str, rng: random.Random) -> None:
        self.fault, self.rng = fault, rng

    def _maybe(self, name: str) -> None:
        if name == self.fault and self.rng.random() < 0.3:
            raise RuntimeError("as drawn")

    def masks(self, draft: Sequence[int]) -> np.ndarray:
        self._maybe("masks")
        return np.full((len(draft) + 1, 8), -1, np.int32)

    def accept(self, token: int) -> None:
        self._maybe("accept")

    def forced(self, limit: int) -> list[int]:
        self._maybe("forced")
        return [0x61] * self.rng.randint(0, min(limit, 3))

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        self._maybe("valid_prefix")
        return len(tokens)

    @property
    def done(self) -> bool:
        self._maybe("done")
        return self.rng.random() < 0.1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_request_gets_one_finish_whatever_happens(caplog: pytest.LogCaptureFixture, data: st.DataObject) -> None:
    """Random arrivals, aborts, deadlines, failing steps, texts and readers; `Inbox` refuses a second Finish."""
    caplog.set_level(logging.CRITICAL)
    now = [0.0]
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    worker = ScriptedWorker(lambda position: rng.choice([0x61, 0x61, 0x61, 0xE4, 0x45, 7, -1]))
    config = SchedulerConfig(
        num_blocks=12,
        max_model_len=40,
        block_size=4,
        max_sequences=4,
        max_tokens_per_step=data.draw(st.sampled_from([6, 20])),
        max_waiting=3,
        speculation=data.draw(st.sampled_from(["off", "ngram", "auto"])),
    )
    loop = EngineLoop(worker, ByteTable(broken={7}), config, vocab_size=256, clock=lambda: now[0])
    inboxes: list[Inbox] = []
    for _ in range(data.draw(st.integers(5, 30))):
        action = data.draw(
            st.sampled_from(["add", "add", "step", "step", "step", "abort", "fail", "later", "interrupt"])
        )
        if action == "add":
            inbox = Inbox()
            deadline = data.draw(st.one_of(st.none(), st.floats(0, 20)))
            asked = request(
                str(len(inboxes)),
                [1] * data.draw(st.integers(1, 12)),
                deadline,
                n=data.draw(st.integers(1, 3)),
                max_tokens=data.draw(st.integers(1, 9)),
                stop=data.draw(st.sampled_from([(), ("aE",), ("a",)])),
                prompt_logprobs=data.draw(st.sampled_from([None, None, 1])),
            )
            fault = data.draw(st.sampled_from([None, None, *GRAMMAR_FAULTS]))
            if data.draw(st.integers(0, 7)) == 0:
                asked, fault = replace(asked, task="embed"), None
            try:
                loop.add(asked, inbox.receive, None if fault is None else partial(FaultyMatcher, fault, rng))
            except AdmissionError:
                continue
            inboxes.append(inbox)
        elif action == "abort" and inboxes:
            loop.end(str(data.draw(st.integers(0, len(inboxes) - 1))), "cancelled")
        elif action == "fail":
            worker.fail_with = RuntimeError("as drawn")
        elif action == "interrupt" and loop.has_work:
            worker.fail_with = KeyboardInterrupt()
            try:
                loop.step()
            except KeyboardInterrupt:
                loop.reset("cancelled")
            worker.fail_with = None
        elif action == "later":
            now[0] += 1.0
        else:
            loop.step()
        loop.scheduler.check()
    while loop.step():
        loop.scheduler.check()
    assert all(inbox.finish for inbox in inboxes)
    assert loop.load().blocks_used == 0
