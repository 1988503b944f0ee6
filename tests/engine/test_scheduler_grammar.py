"""Grammars in the scheduler and the loop: what they allow is said, and what they break ends one choice alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_support import ByteTable, Inbox, ScriptedWorker, scripted_loop
from engine_support import request as asked
from scheduler_support import EOS, ToyMatcher, World, request

from deepseek.core.constraint import Constraint
from deepseek.core.engine import Request
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams


@pytest.mark.parametrize("speculation", ["off", "ngram", "mtp"])
def test_what_is_said_is_what_the_grammar_allows_and_ends_with_it(speculation: str) -> None:
    world = World.of(num_blocks=64, speculation=speculation, right_drafts=0.7)
    for number in range(12):
        world.add(
            request(f"r{number}", max_tokens=20, seed=number, n=1 + number % 2, ignore_eos=True),
            lambda number=number: ToyMatcher(5 + number, number),
        )
    world.drain()
    world.check_answers()
    assert all(set(state.reasons) == {"stop"} for state in world.ended.values())


def test_each_choice_has_a_grammar_of_its_own() -> None:
    made: list[ToyMatcher] = []

    def new_grammar() -> ToyMatcher:
        made.append(ToyMatcher(6, 2))
        return made[-1]

    world = World.of()
    world.add(request("r", n=3), new_grammar)
    world.drain()
    world.answers.clear()
    state = world.ended["r"]
    assert [matcher.said for matcher in made[:3]] == [sequence.output_ids for sequence in state.sequences]


def test_a_preempted_sequence_keeps_its_place_in_the_grammar() -> None:
    world = World.of(num_blocks=6, max_sequences=3)
    for number in range(3):
        world.add(request(f"r{number}", range(4), max_tokens=12, seed=number), lambda: ToyMatcher(12, 1))
    world.drain()
    assert world.scheduler.places.preemptions > 0
    world.check_answers()


FAULTS = ["masks", "accept", "forced", "valid_prefix", "done"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 3])
def test_a_grammar_that_breaks_ends_its_choice_alone(fault: str, at: int) -> None:
    class Broken(ToyMatcher):
        def __getattribute__(self, name: str) -> Any:
            if name == fault and len(object.__getattribute__(self, "said")) >= at:
                raise RuntimeError("as wanted")
            return object.__getattribute__(self, name)

        def allowed(self, said: Any) -> list[int]:
            return [1, 2, 3]

        def forced(self, limit: int) -> list[int]:
            return []

    world = World.of(num_blocks=64, speculation="mtp", right_drafts=1.0)
    world.answers["broken", 0] = ([1, 2, 3] * 9, "error")
    world.requests["broken"] = request("broken", max_tokens=20)
    world.scheduler.add(world.requests["broken"], 0.0, new_grammar=lambda: Broken(30, 0))
    world.add(request("sound", max_tokens=6, ignore_eos=True))
    for _ in range(40):
        if world.step() is None:
            break
    broken = world.ended["broken"]
    assert broken.reasons == ("error",)
    assert broken.error == "its grammar failed: RuntimeError"
    assert len(broken.sequences[0].output_ids) >= at
    del world.ended["broken"], world.requests["broken"]
    world.check_answers()
    assert world.scheduler.pool.used == 0


def test_when_the_only_sequence_of_a_step_breaks_others_take_its_place_in_the_same_step() -> None:
    class Broken(ToyMatcher):
        def masks(self, draft: Any) -> np.ndarray:
            raise RuntimeError("as wanted")

    world = World.of(max_sequences=1, num_blocks=40)
    world.answers["broken", 0] = ([], "error")
    world.add(request("broken"), lambda: Broken(5, 1))
    world.add(request("next"))
    plan = world.step()
    assert plan is not None
    assert plan.num_sequences == 1
    world.drain()
    world.check_answers()
    assert world.ended["broken"].reasons == ("error",)


class MaskedWorker(ScriptedWorker):
    """Says the smallest token that the mask allows."""

    def run(self, plan: Any) -> Any:
        result = super().run(plan)
        for row, mask in enumerate(plan.sampling.mask_of_row.tolist()):
            if mask >= 0:
                bits = np.unpackbits(plan.sampling.masks[mask].view(np.uint8), bitorder="little")
                result.token_ids[row] = int(bits.argmax())
        return result


class Text:
    """Allows one text of bytes."""

    def __init__(self, text: bytes) -> None:
        self.text, self.place = text, 0

    def masks(self, draft: Any) -> np.ndarray:
        masks = np.zeros((len(draft) + 1, 8), np.uint32)
        for row in range(len(draft) + 1):
            if self.place + row < len(self.text):
                token = self.text[self.place + row]
                masks[row, token // 32] = 1 << token % 32
        return masks.view(np.int32)

    def accept(self, token: int) -> None:
        assert token == self.text[self.place]
        self.place += 1

    def forced(self, limit: int) -> list[int]:
        return list(self.text[self.place : self.place + limit])

    def valid_prefix(self, tokens: Any) -> int:
        return sum(1 for a, b in zip(tokens, self.text[self.place :], strict=False) if a == b)

    @property
    def done(self) -> bool:
        return self.place == len(self.text)


def constrained(name: str = "r", **sampling: Any) -> Request:
    params = SamplingParams(**({"temperature": 0.0, "max_tokens": 99} | sampling))
    return Request(name, (1, 2, 3), params, constraint=Constraint.choice(["x"]))


@pytest.mark.parametrize("speculation", ["off", "ngram"])
def test_the_token_that_completes_the_text_is_shown_and_the_choice_stops(speculation: str) -> None:
    loop = scripted_loop(MaskedWorker(), speculation=speculation)
    inbox = Inbox()
    loop.add(constrained(), inbox.receive, lambda: Text('{"größe": 1}'.encode()))
    while loop.step():
        loop.scheduler.check()
    assert inbox.text() == '{"größe": 1}'
    assert inbox.finish is not None and inbox.finish.reasons == ("stop",)
    assert len(inbox.tokens()) == (14 if speculation == "off" else 2)


@pytest.mark.parametrize("speculation", ["off", "ngram"])
@pytest.mark.parametrize("stop", ["b", "bc", "ef", "g"])
def test_a_stop_string_in_the_middle_of_a_step_takes_nothing_of_what_follows(speculation: str, stop: str) -> None:
    loop = scripted_loop(MaskedWorker(), speculation=speculation)
    inbox = Inbox()
    loop.add(constrained(stop=(stop,), logprobs=0), inbox.receive, lambda: Text(b"abcdefgh"))
    while loop.step():
        loop.scheduler.check()
    cut = "abcdefgh".index(stop)
    assert inbox.text() == "abcdefgh"[:cut]
    assert bytes(inbox.ids()) == b"abcdefgh"[: cut + len(stop)]
    assert len(inbox.logprobs()) == len(inbox.ids())
    assert inbox.finish is not None
    assert inbox.finish.usage.completion_tokens == cut + len(stop)
    assert inbox.finish.reasons == ("stop",)


def test_where_a_grammar_allows_the_end_it_is_heeded_even_if_ends_are_ignored() -> None:
    class Open(ToyMatcher):
        def allowed(self, said: Any) -> list[int]:
            return [5] if len(said) < 3 else [EOS]

    world = World.of()
    world.answers["r", 0] = ([5, 5, 5, EOS], "stop")
    world.add(request("r", max_tokens=9, ignore_eos=True), lambda: Open(99, 0))
    world.drain()
    world.check_answers()


def test_text_that_fails_among_confirmed_drafts_takes_nothing_of_what_follows() -> None:
    ends = []
    for speculation in ("off", "ngram"):
        loop = scripted_loop(MaskedWorker(), ByteTable(broken={ord("d")}), speculation=speculation)
        inbox = Inbox()
        loop.add(constrained(logprobs=0), inbox.receive, lambda: Text(b"abcdefgh"))
        while loop.step():
            loop.scheduler.check()
        assert inbox.finish is not None and inbox.finish.reasons == ("error",)
        ends.append((inbox.text(), bytes(inbox.ids()), len(inbox.logprobs()), inbox.finish.usage.completion_tokens))
    assert ends == [("abc", b"abc", 3, 4)] * 2


def test_a_constraint_that_nobody_compiled_is_refused() -> None:
    loop = scripted_loop(ScriptedWorker())
    with pytest.raises(AdmissionError, match="constraint: nobody has compiled it"):
        loop.add(constrained(), Inbox().receive)
    assert not loop.has_work


def test_a_sampling_that_cannot_be_prepared_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepseek.engine.sampling.history import History

    def broken(*_: Any) -> None:
        raise RuntimeError("as wanted")

    monkeypatch.setattr(History, "bias", broken)
    loop = scripted_loop(ScriptedWorker())
    inboxes = {name: Inbox() for name in ("broken", "sound")}
    loop.add(asked("broken", logit_bias={5: 1.0}), inboxes["broken"].receive)
    loop.add(asked("sound"), inboxes["sound"].receive)
    while loop.step():
        loop.scheduler.check()
    ends = {name: inbox.finish for name, inbox in inboxes.items()}
    assert ends["broken"] is not None and ends["broken"].reasons == ("error",)
    assert ends["broken"].error == "its step could not be prepared: RuntimeError"
    assert ends["sound"] is not None and ends["sound"].reasons == ("length",)


def test_bad_words_become_ids_at_admission_and_are_refused_without_a_tokenizer() -> None:
    loop = scripted_loop(ScriptedWorker())
    with pytest.raises(AdmissionError, match="bad_words: this engine has no tokenizer"):
        loop.add(asked(bad_words=("no",)), Inbox().receive)
    loop._encode = lambda text: list(text.encode())
    loop.add(asked(bad_words=("no",)), Inbox().receive)
    (state,) = loop.scheduler._requests.values()
    assert tuple(b"no") in state.request.sampling.bad_word_ids


def test_a_bias_on_an_id_that_the_model_lacks_is_refused() -> None:
    loop = scripted_loop(ScriptedWorker())
    with pytest.raises(AdmissionError, match="logit_bias: not a token id of this model; found 256"):
        loop.add(asked(logit_bias={256: 1.0}), Inbox().receive)
