"""Leases in the scheduler: never a token too many, none computed in vain, and nobody else waits for one that starves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_support import GivenLease
from scheduler_support import STEMS, ToyMatcher, World, request
from test_scheduler_simulation import configs, grammars, requests

from deepseek.engine.plan import StepPlan
from deepseek.engine.request import RequestState, Status


class LeasedWorld(World):
    """Every step is checked to sample no row that its request's lease has no token for."""

    def write(self, plan: StepPlan) -> None:
        planned = self.scheduler.planner.under_way
        assert planned is not None
        rows: Counter[RequestState] = Counter()
        for part in planned:
            if part.samples and part.sequence.state.lease is not None:
                rows[part.sequence.state] += part.drafted + 1
        for state, count in rows.items():
            assert count <= state.granted - state.generated
        super().write(plan)

    def lend(self, name: str, granted: int, *, final: bool = False, **fields: Any) -> RequestState:
        state = self.add(request(name, lease=GivenLease(), **({"ignore_eos": True} | fields)))
        assert state is not None
        self.scheduler.grant(state, granted, final)
        return state


def leased(**config: Any) -> LeasedWorld:
    world = LeasedWorld.of(**config)
    assert isinstance(world, LeasedWorld)
    return world


def more(world: World, state: RequestState, tokens: int, final: bool = False) -> None:
    world.scheduler.grant(state, state.granted + tokens, final)


events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.tuples(requests, grammars, st.none() | st.integers(0, 12))),
        st.tuples(st.just("add"), st.tuples(requests, grammars, st.integers(0, 12))),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("abort during a step"), st.integers(0, 30)),
        st.tuples(
            st.just("grant"), st.tuples(st.integers(0, 30), st.integers(0, 9), st.sampled_from([False] * 3 + [True]))
        ),
    ),
    min_size=5,
    max_size=40,
)


def play(config: dict[str, Any], script: list[tuple[str, Any]], last: int) -> LeasedWorld:
    """As the simulation without leases; at the end every lease grows by `last` for the last time."""
    world = leased(**config)
    states: dict[str, RequestState] = {}
    for number, (kind, what) in enumerate(script):
        if kind == "add":
            fields, grammar, granted = what
            if fields["prompt_logprobs"] is not None and number % 3 == 0:
                fields = fields | {"max_tokens": 0, "n": 1}
            if fields["task"] == "embed" or fields.get("max_tokens") == 0:
                grammar = None
            new_grammar = None if grammar is None else lambda grammar=grammar: ToyMatcher(*grammar)
            lease = None if granted is None else GivenLease()
            state = world.add(request(f"r{number}", lease=lease, **fields), new_grammar)
            if state is not None and state.lease is not None:
                states[f"r{number}"] = state
                world.scheduler.grant(state, granted, False)
        elif kind == "step":
            for _ in range(what):
                world.step()
        elif kind == "grant":
            name, tokens, final = f"r{what[0]}", *what[1:]
            if name in states and not states[name].final:
                more(world, states[name], tokens, final)
                world.audit()
        elif kind == "abort":
            world.scheduler.abort(f"r{what}")
            world.scheduler.check()
        else:
            world.during = lambda name=f"r{what}": world.scheduler.abort(name)  # type: ignore[misc]
            world.step()
            world.during = None
    world.drain()
    # Nobody is left but those whose lease is used up, or that it keeps from the choices of higher index.
    for state in world.scheduler._requests.values():
        assert state.lease is not None and state.generated == state.granted and not state.final
    for state in states.values():
        more(world, state, last, True)
    world.drain()
    return world


@settings(max_examples=300)
@given(configs, events, st.integers(0, 40))
def test_whatever_leases_do_nobody_gets_a_token_too_many_or_another_one(
    config: dict[str, Any], script: list[tuple[str, Any]], last: int
) -> None:
    world = play(config, script, last)
    world.check_answers()
    assert world.scheduler.pool.used == 0 and not world.scheduler.has_work
    for state in world.ended.values():
        if state.lease is not None:
            assert state.generated <= state.granted
            assert "budget" not in state.reasons or (state.final and state.generated == state.granted)
        else:
            assert "budget" not in state.reasons


def test_the_last_token_granted_comes_and_ends_all_that_is_alive() -> None:
    world = leased()
    state = world.lend("r", 5, final=True, n=2, max_tokens=20)
    world.drain()
    assert state.reasons == ("budget", "budget") and state.usage.completion_tokens == 5
    world.check_answers()


def test_a_choice_that_ends_by_itself_with_the_last_token_keeps_its_reason() -> None:
    world = leased()
    state = world.lend("r", 8, final=True, max_tokens=8)
    world.drain()
    assert state.reasons == ("length",)


def test_a_lease_that_is_final_and_empty_ends_a_request_before_anything_is_computed() -> None:
    world = leased()
    state = world.lend("r", 0, final=True, n=2)
    assert world.step() is None
    assert state.reasons == ("budget", "budget") and state.usage.completion_tokens == 0


def test_fewer_tokens_than_choices_go_to_those_of_lower_index() -> None:
    world = leased(num_blocks=64)
    state = world.lend("r", 0, n=3, max_tokens=20)
    given = []
    for tokens in (3, 2, 1, 4):
        more(world, state, tokens)
        world.drain()
        given.append([sequence.generated for sequence in state.sequences])
    assert given == [[1, 1, 1], [2, 2, 1], [3, 2, 1], [5, 3, 2]]
    more(world, state, 0, True)
    world.drain()
    assert set(state.reasons) == {"budget"}
    world.check_answers()


def test_what_a_choice_leaves_the_next_one_gets() -> None:
    world = leased(num_blocks=64)
    state = world.lend("r", 1, n=2, max_tokens=3)
    world.drain()
    assert [sequence.generated for sequence in state.sequences] == [1, 0]
    more(world, state, 4, True)
    world.drain()
    assert [sequence.generated for sequence in state.sequences] == [3, 2]
    assert state.reasons == ("length", "budget")


def test_one_that_starves_keeps_its_blocks_and_goes_on_without_computing_anything_again() -> None:
    world = leased()
    state = world.lend("r", 3, prompt=range(9), max_tokens=20)
    world.drain()
    (sequence,) = state.sequences
    assert sequence.status is Status.STARVED and len(sequence.blocks) == 3
    assert world.scheduler.load(0.0).running == 1
    more(world, state, 2)
    plan = world.step()
    assert plan is not None and plan.num_tokens == 1
    assert world.scheduler.places.preemptions == 0


def test_one_that_starves_gives_its_blocks_to_one_that_runs_before_anybody_else_does() -> None:
    world = leased(num_blocks=7, max_sequences=3, ageing_s=1000.0)
    starving = world.lend("starving", 1, prompt=range(8), priority=-1)
    for name in ("a", "b"):
        world.add(request(name, range(4), max_tokens=8, ignore_eos=True, cache_salt=name))
    world.drain()
    (sequence,) = starving.sequences
    assert sequence.status is Status.STARVED and not sequence.blocks
    assert world.scheduler.places.preemptions == 1
    assert world.ended.keys() == {"a", "b"} and world.scheduler.load(0.0).waiting == 1
    more(world, starving, 20)
    world.drain()
    world.check_answers()


@pytest.mark.parametrize("short", [{"max_sequences": 1}, {"num_blocks": 4}])
def test_one_that_starves_gives_way_to_one_that_comes(short: dict[str, int]) -> None:
    world = leased(**short)
    starving = world.lend("starving", 1, prompt=range(8))
    world.drain()
    assert starving.sequences[0].blocks
    world.add(request("new", range(20, 28), max_tokens=4, ignore_eos=True))
    world.drain()
    assert world.ended.keys() == {"new"}
    assert not starving.sequences[0].blocks
    more(world, starving, 20)
    world.drain()
    world.check_answers()


def test_one_that_starves_keeps_its_blocks_where_they_would_not_be_enough() -> None:
    world = leased(num_blocks=8, max_sequences=3)
    starving = world.lend("starving", 1, prompt=range(4))
    world.drain()
    world.add(request("runs", range(16), max_tokens=4, ignore_eos=True))
    world.step()
    world.add(request("large", range(20, 40), max_tokens=4, ignore_eos=True))
    world.step()
    assert starving.sequences[0].blocks
    world.drain()
    assert world.ended.keys() == {"runs", "large"}


def test_nobody_waits_behind_one_that_starves_in_the_queue() -> None:
    world = leased(max_sequences=1)
    world.lend("starving", 0, priority=-5)
    assert world.step() is None
    world.add(request("other", max_tokens=2, ignore_eos=True))
    world.drain()
    assert world.ended.keys() == {"other"}


def test_a_deadline_and_an_abort_end_one_that_starves() -> None:
    world = leased()
    states = [world.lend("late", 1, deadline=5.0), world.lend("aborted", 1), world.lend("unstarted", 0)]
    world.drain()
    world.scheduler.abort("aborted")
    world.scheduler.abort("unstarted")
    world.now = 5.0
    world.step()
    assert [state.reasons for state in states] == [("deadline",), ("cancelled",), ("cancelled",)]
    assert world.scheduler.pool.used == 0


def test_new_weights_and_a_pause_take_the_blocks_of_one_that_starves() -> None:
    world = leased()
    state = world.lend("r", 3, prompt=range(9), max_tokens=9)
    world.drain()
    world.scheduler.set_weights_version(1)
    world.audit()
    assert world.scheduler.pool.used == 0
    more(world, state, 2)
    world.drain()
    world.scheduler.pause()
    world.audit()
    assert world.scheduler.pool.used == 0
    more(world, state, 20)
    assert world.step() is None
    world.scheduler.resume()
    world.drain()
    assert state.reasons == ("length",)
    world.check_answers()


def test_while_nothing_is_computed_a_lease_that_is_spent_still_ends_its_request() -> None:
    world = leased()
    state = world.lend("r", 3, max_tokens=9)
    world.drain()
    world.scheduler.pause()
    more(world, state, 0, True)
    world.step()
    assert state.reasons == ("budget",)


def test_drafts_stop_at_the_lease() -> None:
    """All of them are right, so each step gains what it drafts: the last one just as much as is left."""
    world = leased(num_blocks=64, max_sequences=4, max_tokens_per_step=32, speculation="mtp", right_drafts=1.0)
    state = world.lend("r", 7, max_tokens=30)
    world.drain()
    assert state.generated == 7
    gained = [len(update.token_ids) for update in world.updates if update.token_ids]
    assert gained == [1, 4, 2]
    more(world, state, 30)
    world.drain()
    world.check_answers()


def test_what_is_about_a_prompt_alone_has_no_lease() -> None:
    world = leased()
    for name, fields in (("embed", {"task": "embed"}), ("score", {"max_tokens": 0, "prompt_logprobs": 0})):
        state = world.add(request(name, range(9), lease=GivenLease(0, True), **fields))
        assert state is not None and state.lease is None
    world.drain()
    assert {state.reasons for state in world.ended.values()} == {("stop",), ("length",)}


def test_the_simulation_reaches_sequences_that_starve_running_and_give_way() -> None:
    """What the property above relies on does occur, and the answers hold there."""
    world = leased(num_blocks=14, max_sequences=5, max_tokens_per_step=12, speculation="ngram")
    states: list[RequestState] = []
    took = 0
    for number in range(60):
        stem = STEMS[number % 2][: 8 + number % 12]
        lease = GivenLease() if number % 3 else None
        state = world.add(request(f"r{number}", (*stem, number % 5), max_tokens=12, n=1 + number % 3, lease=lease))
        assert state is not None
        if lease is not None:
            states.append(state)
            more(world, state, 2 + number % 3)
        for one in states[number % 4 :: 4]:
            more(world, one, number % 3)
        for _ in range(2):
            kept = [s for s in world.scheduler.places.starved if s.blocks]
            world.step()
            took += sum(not s.blocks for s in kept if s.status is Status.STARVED)
    world.drain()
    assert took > 5
    for one in states:
        more(world, one, 2, True)
    world.drain()
    world.check_answers()
    reasons = Counter(reason for state in world.ended.values() for reason in state.reasons)
    assert reasons["budget"] > 5 and reasons["length"] > 5
