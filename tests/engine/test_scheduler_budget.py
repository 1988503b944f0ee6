"""What a step has room for: the budget of tokens, chunks of long prompts, and who gives way when blocks are short."""

from __future__ import annotations

import numpy as np
import pytest
from scheduler_support import World, request

from deepseek.core.errors import AdmissionError
from deepseek.engine.request import Sequence, Status


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks() -> None:
    world = World.of(max_tokens_per_step=8, max_sequences=4)
    world.add(request("short", range(3), max_tokens=20, ignore_eos=True))
    world.step()
    world.add(request("long", range(30)))
    shapes = []
    for _ in range(5):
        plan = world.step()
        assert plan is not None
        shapes.append(np.diff(plan.cu_q).tolist())
    assert shapes == [[1, 7], [1, 7], [1, 7], [1, 7], [1, 2]]


def test_every_running_sequence_advances_in_every_step() -> None:
    world = World.of(num_blocks=64, max_tokens_per_step=4, max_sequences=4)
    for number in range(4):
        world.add(request(f"r{number}", [number], max_tokens=40, ignore_eos=True))
    for _ in range(30):
        plan = world.step()
        assert plan is not None
    assert {len(s.output_ids) for s in world.scheduler.places.running} == {30}


def test_the_least_important_then_latest_gives_way_when_memory_is_short() -> None:
    world = World.of(num_blocks=6, max_sequences=3, ageing_s=1000.0)
    for name, priority in (("low", 1), ("first", 0), ("second", 0)):
        world.add(request(name, range(4), max_tokens=12, ignore_eos=True, priority=priority))
    order = []
    running: list[Sequence] = []
    for _ in range(200):
        if world.step() is None:
            break
        now_running = list(world.scheduler.places.running)
        order += [s.request.id for s in running if s not in now_running and s.status is Status.WAITING]
        running = now_running
    assert order[0] == "low"
    assert "first" not in order
    world.check_answers()


def test_a_prompt_that_could_never_fit_the_pool_is_refused_at_once() -> None:
    world = World.of(num_blocks=4, max_model_len=1000)
    with pytest.raises(AdmissionError, match="found 16 tokens; expected at most 15") as refusal:
        world.scheduler.add(request("r", range(16)), 0.0)
    assert refusal.value.reason == "too_long"
    world.add(request("fits", range(15)))
    world.drain()
    world.check_answers()


def test_output_ends_with_length_where_the_pool_ends() -> None:
    world = World.of(num_blocks=4, max_model_len=1000)
    world.add(request("r", range(5), max_tokens=500, ignore_eos=True))
    world.drain()
    assert world.ended["r"].reasons == ("length",)
    assert world.ended["r"].usage.total_tokens == 16


def test_two_that_each_need_the_whole_pool_both_finish() -> None:
    world = World.of(num_blocks=4, max_model_len=16, max_sequences=2)
    for name in ("a", "b"):
        world.add(request(name, [1, 2], max_tokens=14, ignore_eos=True))
    world.drain(limit=200)
    world.check_answers()
