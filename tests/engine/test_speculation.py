"""Drafts in the scheduler: what they may use, what they must never take, and when they are made."""

from __future__ import annotations

from typing import Any

import pytest
from engine_support import ByteTable, Inbox, ScriptedWorker, scheduler_config, tiny_model
from engine_support import request as asked
from hypothesis import given
from hypothesis import strategies as st
from scheduler_support import EOS, ToyMatcher, World, request

from deepseek.core.errors import ConfigError
from deepseek.engine.loop import EngineLoop
from deepseek.engine.plan import StepPlan
from deepseek.engine.result import StepResult
from deepseek.engine.scheduler import Scheduler, SchedulerConfig
from deepseek.engine.speculation.policy import confirmed
from deepseek.engine.worker import Worker


def perfect(**config: Any) -> World:
    """A worker that drafts three tokens and is always right."""
    return World.of(**({"speculation": "mtp", "right_drafts": 1.0, "num_blocks": 64} | config))


def drafted(world: World) -> list[list[int]]:
    return [StepPlan.from_bytes(plan).drafted.tolist() for plan in world.plans]


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(-1, 2), min_size=1, max_size=7))
def test_a_draft_counts_up_to_the_first_token_that_was_not_drawn(draft: list[int], drawn: list[int]) -> None:
    count = confirmed(draft, drawn)
    assert draft[:count] == drawn[:count]
    assert count == min(len(draft), len(drawn)) or draft[count] != drawn[count]


def test_right_drafts_bring_several_tokens_a_step() -> None:
    world = perfect()
    world.add(request("r", max_tokens=17, ignore_eos=True))
    world.drain()
    world.check_answers()
    assert [len(update.token_ids) for update in world.updates] == [1, 4, 4, 4, 4]


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_holds_and_no_draft_reaches_beyond_it(max_tokens: int) -> None:
    world = perfect()
    world.add(request("r", max_tokens=max_tokens, ignore_eos=True))
    world.drain()
    world.check_answers()
    assert world.ended["r"].usage.completion_tokens == max_tokens
    computed = sum(StepPlan.from_bytes(plan).num_tokens for plan in world.plans)
    assert computed == 3 + max_tokens - 1


def test_the_longest_length_holds() -> None:
    world = perfect(max_model_len=10)
    world.add(request("r", max_tokens=50, ignore_eos=True))
    world.drain()
    world.check_answers()
    assert world.ended["r"].usage.total_tokens == 10


def test_a_stop_among_the_drafts_ends_the_sequence_there() -> None:
    world = perfect()
    for seed in range(20):
        world.add(request(f"r{seed}", max_tokens=20, seed=seed, stop_token_ids=(3, 7)))
    world.drain()
    world.check_answers()
    assert sum(state.reasons == ("stop",) for state in world.ended.values()) > 10
    assert all(EOS not in state.sequences[0].output_ids[:-1] for state in world.ended.values())


def test_drafts_use_only_the_budget_that_nobody_needs() -> None:
    world = perfect(max_tokens_per_step=6, max_sequences=4)
    world.add(request("decodes", max_tokens=30, ignore_eos=True))
    world.step()
    world.add(request("long", range(24), max_tokens=1))
    for _ in range(4):
        plan = world.step()
        assert plan is not None
        assert plan.drafted.tolist() == [0, 0]  # the prompt takes all that is left
        assert plan.num_tokens == 6
    world.drain()
    world.check_answers()
    assert [3] in drafted(world)


def test_drafts_never_preempt_and_give_back_the_blocks_of_those_that_were_wrong() -> None:
    alone = World.of(num_blocks=9, max_sequences=3)
    guessing = World.of(num_blocks=9, max_sequences=3, speculation="mtp", right_drafts=0.0)
    for world in (alone, guessing):
        for number in range(3):
            world.add(request(f"r{number}", range(4), max_tokens=9, ignore_eos=True))
        world.drain()
        world.check_answers()
    assert sum(map(sum, drafted(guessing))) > 20
    assert guessing.confirmed == 0
    # 3 x 3 blocks is exactly what they need: whoever kept one for a guess would push another one out.
    assert guessing.scheduler.places.preemptions == alone.scheduler.places.preemptions == 0
    assert len(guessing.plans) == len(alone.plans)


def test_a_preempted_sequence_drops_its_draft() -> None:
    world = perfect()
    world.add(request("r", max_tokens=30, ignore_eos=True))
    world.step()
    (sequence,) = world.scheduler.places.running
    assert len(sequence.draft) == 3
    world.scheduler.set_weights_version(1)
    assert sequence.draft == []
    world.drain()
    world.check_answers()


def test_only_confirmed_tokens_are_found_in_the_cache() -> None:
    world = World.of(num_blocks=64, speculation="mtp", right_drafts=0.5)
    for number in range(12):
        state = world.add(request(f"r{number}", range(6), max_tokens=9, seed=number, ignore_eos=True))
        world.drain()
        assert state is not None
        world.add(request(f"again{number}", [*state.sequences[0].token_ids, 1, 2]))
        world.drain()
        assert world.ended[f"again{number}"].usage.cached_tokens == 12  # 15 tokens, 14 of them computed
    world.check_answers()


def test_wrong_drafts_cost_a_tenant_nothing() -> None:
    served = []
    for right in (None, 0.0, 0.5, 1.0):
        world = perfect(right_drafts=right)
        world.add(request("r", range(9), max_tokens=20, ignore_eos=True))
        world.drain()
        served.append(world.scheduler.served("local"))
    assert served == [9 + 19] * 4


def test_a_worker_that_drafts_nothing_leaves_auto_to_what_came_before() -> None:
    world = World.of(num_blocks=64, speculation="auto")
    for number in range(8):
        world.add(request(f"r{number}", max_tokens=50, seed=number, ignore_eos=True))
    world.drain()
    world.check_answers()
    assert sum(map(sum, drafted(world))) > 0


def test_nothing_is_drafted_when_speculation_is_off_or_no_draft_is_allowed() -> None:
    for config in ({"speculation": "off"}, {"speculation": "mtp", "max_draft_tokens": 0}):
        world = perfect(**config)
        world.add(request("r", [1, 2] * 9, max_tokens=20, ignore_eos=True), lambda: ToyMatcher(9, 1))
        world.drain()
        world.check_answers()
        assert sum(map(sum, drafted(world))) == 0


def test_a_grammar_without_alternatives_is_a_free_draft_even_where_drafts_do_not_pay() -> None:
    scheduler = Scheduler(SchedulerConfig(num_blocks=8, max_model_len=64, speculation="auto", max_draft_tokens=2))
    for payoff in (scheduler.planner.speculation._layer_pays, scheduler.planner.speculation._ngrams_pay):
        payoff.wants_drafts = lambda running: False  # type: ignore[method-assign]

    class Fixed(ToyMatcher):
        def allowed(self, said: Any) -> list[int]:
            return [[5, 6, 7, 8, 9, 1, EOS][len(said)]]

    scheduler.add(request("r", max_tokens=20), 0.0, new_grammar=lambda: Fixed(6, 0))
    gained = []
    while (plan := scheduler.schedule(0.0)) is not None:
        masks = plan.sampling.masks[plan.sampling.mask_of_row][:, 0].tolist()
        gained += [update.token_ids for update in scheduler.apply(plan, [mask.bit_length() - 1 for mask in masks])]
    assert gained == [[5], [6, 7, 8, 9, 1]]


class TimedWorker(ScriptedWorker):
    """Time passes by its rows; says the same word for ever, so that n-grams are always right."""

    def __init__(self, seconds_of: dict[int, float]) -> None:
        super().__init__(lambda position: 0x61 + position % 5)
        self.seconds_of, self.now = seconds_of, 0.0

    def run(self, plan: StepPlan) -> StepResult:
        self.now += self.seconds_of.get(plan.num_rows, 1.0)
        return super().run(plan)


@pytest.mark.parametrize(("four_rows", "expected"), [(2.0, True), (8.0, False)])
def test_auto_drafts_while_the_measured_steps_say_that_it_pays(four_rows: float, expected: bool) -> None:
    worker = TimedWorker({1: 1.0, 2: 1.0, 3: 1.5, 4: four_rows})
    config = scheduler_config(speculation="auto", max_model_len=2000, num_blocks=512)
    loop = EngineLoop(worker, ByteTable(), config, clock=lambda: worker.now)
    inbox = Inbox()
    loop.add(asked(max_tokens=1200), inbox.receive)
    while loop.step():
        loop.scheduler.check()
    late = [plan for plan in worker.plans if plan.positions[0] > 400]
    share = sum(plan.drafted.sum() > 0 for plan in late) / len(late)
    assert share >= 0.8 if expected else share <= 0.15
    assert inbox.text() == "".join(chr(0x61 + position % 5) for position in range(3, 1203))


def test_mtp_without_a_head_to_draft_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="no multi-token-prediction head"):
        Worker(tiny_model("grouped_query"), 4, 8, drafts=True)
