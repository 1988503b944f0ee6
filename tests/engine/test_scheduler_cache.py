"""The prefix cache as requests meet it: who finds what, and what must never be found."""

from __future__ import annotations

from scheduler_support import World, request

from deepseek.engine.plan import StepPlan


def test_a_hit_leaves_the_last_token_to_be_computed() -> None:
    world = World.of()
    world.add(request("first", range(8), max_tokens=1))
    world.drain()
    world.add(request("again", range(8), max_tokens=1))
    plan = world.step()
    assert plan is not None
    assert plan.positions.tolist() == [4, 5, 6, 7]
    assert world.ended["again"].usage.cached_tokens == 4


def test_a_tenant_never_hits_what_another_wrote() -> None:
    world = World.of()
    for tenant, salt in (("a", ""), ("b", ""), ("a", "salt")):
        world.add(request(f"{tenant}{salt}", range(9), tenant=tenant, cache_salt=salt))
        world.drain()
    assert [state.usage.cached_tokens for state in world.ended.values()] == [0, 0, 0]
    world.add(request("a again", range(9), tenant="a"))
    world.drain()
    assert world.ended["a again"].usage.cached_tokens == 8


def test_output_is_cached_for_the_next_turn_of_a_conversation() -> None:
    world = World.of()
    state = world.add(request("turn 1", range(6), max_tokens=6, ignore_eos=True))
    world.drain()
    assert state is not None
    world.add(request("turn 2", [*state.sequences[0].token_ids, 1, 2]))
    world.drain()
    # 12 tokens, the last of which was never computed.
    assert world.ended["turn 2"].usage.cached_tokens == 8


def test_an_aborted_request_leaves_its_blocks_in_the_cache() -> None:
    world = World.of()
    world.add(request("gone", range(9), max_tokens=30, ignore_eos=True))
    world.step()
    world.scheduler.abort("gone")
    world.add(request("next", range(9)))
    world.drain()
    assert world.ended["next"].usage.cached_tokens == 8


def test_later_choices_share_the_prompt_of_the_first() -> None:
    world = World.of()
    world.add(request("r", range(11), n=3, max_tokens=4, ignore_eos=True))
    world.drain()
    world.check_answers()
    prompts_computed = sum(int((StepPlan.from_bytes(plan).positions < 11).sum()) for plan in world.plans)
    assert prompts_computed == 11 + 2 * 3


def test_choices_of_a_short_prompt_start_together() -> None:
    world = World.of()
    world.add(request("r", range(3), n=3))
    plan = world.step()
    assert plan is not None
    assert plan.num_sequences == 3


def test_new_weights_recompute_what_is_alive_and_find_nothing_old() -> None:
    world = World.of()
    world.add(request("old", range(9), max_tokens=1))
    world.drain()
    world.add(request("alive", range(9), max_tokens=9, ignore_eos=True))
    world.step()
    world.scheduler.set_weights_version(1)
    world.scheduler.check()
    plan = world.step()
    assert plan is not None
    assert plan.positions.tolist() == list(range(10))
    world.drain()
    world.check_answers()
