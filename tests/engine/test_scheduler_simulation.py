"""Any requests, at any moment, under any configuration: each ends once, with the model's own answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_support import STEMS, ToyMatcher, World, request

from deepseek.engine.plan import StepPlan


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    stem = draw(st.sampled_from(STEMS))[: draw(st.integers(0, 24))]
    return stem + tuple(draw(st.lists(st.integers(0, 10), min_size=0 if stem else 1, max_size=10)))


configs = st.builds(
    lambda sequences, extra, **rest: {"max_sequences": sequences, "max_tokens_per_step": sequences + extra} | rest,
    sequences=st.integers(1, 6),
    extra=st.integers(0, 20),
    num_blocks=st.integers(5, 24),
    block_size=st.sampled_from([1, 2, 4, 8]),
    max_model_len=st.integers(8, 60),
    max_waiting=st.integers(1, 8),
    ageing_s=st.sampled_from([1.0, 30.0]),
    prefix_cache=st.booleans(),
    speculation=st.sampled_from(["off", "ngram", "mtp", "auto"]),
    max_draft_tokens=st.integers(0, 5),
    right_drafts=st.sampled_from([None, 0.0, 0.5, 0.9, 1.0]),
)

requests = st.fixed_dictionaries(
    {
        "prompt": prompts(),
        "tenant": st.sampled_from(["a", "b"]),
        "cache_salt": st.sampled_from(["", "", "s"]),
        "priority": st.integers(-1, 1),
        "deadline": st.none() | st.integers(1, 60).map(float),
        "max_tokens": st.integers(1, 24),
        "seed": st.none() | st.integers(0, 3),
        "n": st.sampled_from([1, 1, 1, 2, 3]),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.sampled_from([(), (), (3,)]),
        "prompt_logprobs": st.sampled_from([None, None, 1]),
        "task": st.sampled_from(["generate", "generate", "generate", "embed"]),
        "pooling": st.sampled_from(["last", "mean"]),
    }
)

grammars = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.integers(1, 20), st.integers(0, 4), st.none() | st.integers(0, 10)),
)

events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.tuples(requests, grammars)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("abort during a step"), st.integers(0, 30)),
    ),
    min_size=5,
    max_size=40,
)


def play(config: dict[str, Any], script: list[tuple[str, Any]]) -> World:
    world = World.of(**config)
    for number, (kind, what) in enumerate(script):
        if kind == "add":
            fields, grammar = what
            if fields["prompt_logprobs"] is not None and number % 3 == 0:
                fields = fields | {"max_tokens": 0, "n": 1}
            if fields["task"] == "embed" or fields.get("max_tokens") == 0:
                grammar = None
            new_grammar = None if grammar is None else lambda grammar=grammar: ToyMatcher(*grammar)
            world.add(request(f"r{number}", **fields), new_grammar)
        elif kind == "step":
            for _ in range(what):
                world.step()
        elif kind == "abort":
            world.scheduler.abort(f"r{what}")
            world.scheduler.check()
        else:
            world.during = lambda name=f"r{what}": world.scheduler.abort(name)  # type: ignore[misc]
            world.step()
            world.during = None
    world.drain()
    return world


@settings(max_examples=300)
@given(configs, events)
def test_whatever_happens_every_request_ends_once_with_the_models_own_answer(
    config: dict[str, Any], script: list[tuple[str, Any]]
) -> None:
    world = play(config, script)
    world.check_answers()
    assert world.scheduler.pool.used == 0
    assert not world.scheduler.has_work


@settings(max_examples=40)
@given(configs, events)
def test_the_same_input_gives_the_same_plans(config: dict[str, Any], script: list[tuple[str, Any]]) -> None:
    assert play(config, script).plans == play(config, script).plans


def test_the_simulation_reaches_preemption_sharing_chunking_and_eviction() -> None:
    """What the property above relies on does occur, and the answers hold there."""
    world = World.of(num_blocks=12, max_sequences=6, max_tokens_per_step=10)
    for number in range(40):
        stem = STEMS[number % 2][: 8 + number % 12]
        world.add(request(f"r{number}", (*stem, number % 5), max_tokens=20, ignore_eos=True, n=1 + number % 2))
        world.step()
    world.drain()
    world.check_answers()
    pool = world.scheduler.pool
    assert world.scheduler.places.preemptions > 10
    assert pool.stats.hits > 100
    assert pool.stats.evictions > 10
    assert any(len(StepPlan.from_bytes(plan).rows) < StepPlan.from_bytes(plan).num_sequences for plan in world.plans)


def test_a_toy_model_on_a_damaged_cache_gives_another_answer() -> None:
    world = World.of()
    world.add(request("r", range(8), ignore_eos=True))
    world.step()
    slot = next(iter(world.cache))
    world.cache[slot] = b"damaged!"
    world.drain()
    with pytest.raises(AssertionError):
        world.check_answers()


def test_the_simulation_reaches_right_and_wrong_drafts_grammars_and_preempted_readings() -> None:
    world = World.of(
        num_blocks=12,
        max_sequences=6,
        max_tokens_per_step=24,
        speculation="mtp",
        right_drafts=0.8,
    )
    for number in range(40):
        stem = STEMS[number % 2][: 8 + number % 12]
        new_grammar = (lambda number=number: ToyMatcher(15, number)) if number % 3 == 0 else None
        rest = {"prompt_logprobs": 0} if number % 4 == 0 else {}
        world.add(request(f"r{number}", (*stem, number % 5), max_tokens=20, ignore_eos=True, **rest), new_grammar)
        world.step()
    world.drain()
    world.check_answers()
    drafted = sum(int(StepPlan.from_bytes(plan).drafted.sum()) for plan in world.plans)
    assert world.scheduler.places.preemptions > 5
    assert 100 < world.confirmed < drafted - 20
