"""The scheduler: what it admits, and how requests end."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_support import EOS, World, request

from deepseek.core.engine import FinishReason
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.engine.request import Sequence
from deepseek.engine.scheduler import FAILED_ROW, Scheduler, SchedulerConfig, Update


def test_a_request_aborted_before_its_first_token_never_computes() -> None:
    world = World.of()
    world.add(request("r", range(9)))
    world.scheduler.abort("r")
    assert world.step() is None
    assert world.ended["r"].reasons == ("cancelled",)
    assert world.ended["r"].usage.completion_tokens == 0


def test_an_abort_during_a_step_takes_effect_in_that_step() -> None:
    world = World.of()
    world.add(request("r", range(9)))
    world.during = lambda: world.scheduler.abort("r")
    world.step()
    assert world.ended["r"].reasons == ("cancelled",)
    assert world.updates == []
    assert world.scheduler.pool.used == 0


def test_aborting_an_unknown_request_changes_nothing() -> None:
    world = World.of()
    world.scheduler.abort("nobody")
    assert world.scheduler.take_ended() == []


def test_a_deadline_ends_running_and_waiting_requests() -> None:
    world = World.of(max_sequences=1, num_blocks=40)
    world.add(request("running", max_tokens=40, ignore_eos=True, deadline=5.0))
    world.add(request("waiting", deadline=3.0))
    world.drain()
    assert world.ended["running"].reasons == world.ended["waiting"].reasons == ("deadline",)
    assert world.ended["running"].usage.completion_tokens == 4
    assert world.now == 5.0


def test_a_full_queue_refuses_and_takes_again_when_one_has_started() -> None:
    world = World.of(max_waiting=2)
    world.add(request("a"))
    world.add(request("b"))
    with pytest.raises(AdmissionError) as refusal:
        world.scheduler.add(request("c"), world.now)
    assert refusal.value.reason == "queue_full"
    world.step()
    assert world.add(request("c")) is not None


def test_two_live_requests_cannot_have_one_id() -> None:
    world = World.of()
    world.add(request("r"))
    with pytest.raises(AdmissionError) as refusal:
        world.scheduler.add(request("r"), world.now)
    assert refusal.value.reason == "duplicate"
    world.drain()
    assert world.scheduler.add(request("r"), world.now).request.id == "r"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(AdmissionError, match="the prompt has no tokens"):
        World.of().scheduler.add(request("r", ()), 0.0)


def run_until_sampled(scheduler: Scheduler, token: int) -> Update:
    plan = scheduler.schedule(0.0)
    assert plan is not None
    (update,) = scheduler.apply(plan, [token] * plan.num_rows)
    return update


@pytest.mark.parametrize(
    ("sampling", "token", "reason"),
    [
        ({}, EOS, "stop"),
        ({"ignore_eos": True}, EOS, None),
        ({"stop_token_ids": (5,)}, 5, "stop"),
        ({"stop_token_ids": (EOS,), "ignore_eos": True}, EOS, "stop"),
        ({"max_tokens": 1}, 4, "length"),
        ({"max_tokens": 1}, EOS, "stop"),
        ({}, 4, None),
    ],
)
def test_a_token_ends_a_sequence_by_these_rules(sampling: dict[str, Any], token: int, reason: str | None) -> None:
    scheduler = World.of().scheduler
    scheduler.add(request("r", **sampling), 0.0)
    update = run_until_sampled(scheduler, token)
    assert (update.token_ids, update.reason) == ([token], reason)


def test_whoever_reads_the_tokens_may_end_the_sequence_for_another_reason() -> None:
    scheduler = World.of().scheduler
    scheduler.add(request("r", max_tokens=1), 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    seen: list[Any] = []

    def reader(sequence: Sequence, token_id: int, row: int, reason: str | None, hidden: bool) -> FinishReason:
        seen.append((token_id, row, reason, hidden))
        return "stop"

    (update,) = scheduler.apply(plan, [4], reader=reader)
    assert seen == [(4, 0, "length", False)]
    (state,) = scheduler.take_ended()
    assert state.reasons == (update.reason,) == ("stop",)
    scheduler.finish(update.sequence, "error", "too late")
    assert (state.reasons, state.error, scheduler.take_ended()) == (("stop",), None, [])


def test_a_failed_row_ends_that_choice_alone() -> None:
    scheduler = World.of().scheduler
    scheduler.add(request("r", n=2, max_tokens=1), 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    scheduler.apply(plan, [FAILED_ROW, 4])
    (state,) = scheduler.take_ended()
    assert state.reasons == ("error", "length")
    assert state.error == "the next token could not be sampled"
    scheduler.check()


def test_a_failed_step_ends_its_own_sequences_and_no_others() -> None:
    world = World.of(max_sequences=1)
    world.add(request("struck"))
    world.add(request("spared", range(5)))
    plan = world.scheduler.schedule(0.0)
    assert plan is not None
    world.scheduler.fail(plan, "the worker broke")
    world.drain()
    assert world.ended["struck"].reasons == ("error",)
    assert world.ended["struck"].error == "the worker broke"
    world.scheduler.check()
    assert world.ended["spared"].error is None


def test_end_all_ends_every_request_once() -> None:
    world = World.of(max_sequences=1)
    for number in range(3):
        world.add(request(f"r{number}", n=2))
    world.step()
    world.scheduler.end_all("cancelled")
    world.scheduler.check()
    assert len(world.scheduler.take_ended()) == 3
    assert not world.scheduler.has_work


def test_an_unset_seed_is_drawn_once_and_kept() -> None:
    scheduler = Scheduler(SchedulerConfig(num_blocks=4, max_model_len=16), draw_seed=lambda: 42)
    assert scheduler.add(request("drawn", seed=None), 0.0).seed == 42
    assert scheduler.add(request("given", seed=0), 0.0).seed == 0


def test_a_second_plan_before_the_first_is_applied_is_refused() -> None:
    scheduler = World.of().scheduler
    scheduler.add(request("r"), 0.0)
    plan = scheduler.schedule(0.0)
    assert plan is not None
    with pytest.raises(EngineError, match="have not been applied"):
        scheduler.schedule(0.0)
    with pytest.raises(EngineError, match="found 0; expected 1"):
        scheduler.apply(plan, [])
    scheduler.apply(plan, [1])
    with pytest.raises(EngineError, match="not the step that is under way"):
        scheduler.apply(plan, [1])


def test_load_tells_what_waits_what_runs_and_what_is_used() -> None:
    world = World.of(max_sequences=1, num_blocks=10)
    world.add(request("a", range(9), max_tokens=30, ignore_eos=True))
    world.step()
    world.add(request("b", range(9), n=2))
    load = world.scheduler.load(world.now + 2.5)
    assert (load.waiting, load.running, load.blocks_used, load.blocks_total) == (2, 1, 3, 10)
    assert load.oldest_wait_s == 2.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_blocks", 0),
        ("block_size", 0),
        ("max_sequences", 0),
        ("max_waiting", 0),
        ("max_model_len", 1),
        ("ageing_s", 0.0),
        ("max_tokens_per_step", 3),
        ("max_draft_tokens", 65),
        ("speculation", "sometimes"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        SchedulerConfig(**({"num_blocks": 4, "max_model_len": 16, "max_sequences": 4} | {field: value}))
