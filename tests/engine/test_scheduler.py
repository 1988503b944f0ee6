"""The scheduler against a simulated cache and a toy model.

The toy model reads only what a real one could: its next token is a hash of everything that the plan's block
table reaches. What it wrote for each token depends on all tokens before it. So a wrong slot, a block shared
too early, a stale or foreign block, or a token computed twice or never shows as a wrong answer, and the
answer is compared with one computed without any cache.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.engine import FinishReason, Request
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.plan import StepPlan
from deepseek.engine.request import RequestState, Sequence, Status
from deepseek.engine.scheduler import FAILED_ROW, Scheduler, SchedulerConfig, Update

VOCABULARY = 13
EOS = 12


def entry(previous: bytes, token: int) -> bytes:
    """What the toy model keeps in the cache for a token: it depends on the whole past."""
    return hashlib.blake2b(previous + token.to_bytes(4, "little"), digest_size=8).digest()


def draw(entries: list[bytes], seed: int, choice: int, position: int) -> int:
    payload = b"".join(entries) + repr((seed, choice, position)).encode()
    return int.from_bytes(hashlib.blake2b(payload, digest_size=4).digest(), "little") % VOCABULARY


def answer(request: Request, choice: int, max_length: int) -> tuple[list[int], FinishReason]:
    """The toy model's output for one choice, without cache, batch or scheduler."""
    sampling = request.sampling
    entries: list[bytes] = []
    for token in request.prompt_ids:
        entries.append(entry(entries[-1] if entries else b"", token))
    output: list[int] = []
    while True:
        token = draw(entries, sampling.seed or 0, choice, len(entries))
        output.append(token)
        if token in sampling.stop_token_ids or (token == EOS and not sampling.ignore_eos):
            return output, "stop"
        if len(output) == sampling.max_tokens or len(request.prompt_ids) + len(output) == max_length:
            return output, "length"
        entries.append(entry(entries[-1], token))


@dataclass
class World:
    """A scheduler, its cache and the toy model, with every rule of the cache checked at every step."""

    scheduler: Scheduler
    now: float = 0.0
    cache: dict[int, bytes] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    ended: dict[str, RequestState] = field(default_factory=dict)
    first_token: dict[str, float] = field(default_factory=dict)
    tokens_of_tenant: Counter[str] = field(default_factory=Counter)
    """Computed for the first time: recomputing after a preemption serves nobody."""
    furthest: Counter[Sequence] = field(default_factory=Counter)
    plans: list[bytes] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    audited: bool = True
    """Off where long queues make the audit the slowest part and another test covers it."""
    during: Callable[[], None] | None = None
    """Called once while a step runs, between plan and results."""

    @classmethod
    def of(cls, *, audited: bool = True, **config: Any) -> World:
        config = {"num_blocks": 16, "max_model_len": 64, "block_size": 4, "eos_token_ids": frozenset({EOS})} | config
        seeds = iter(range(10**6))
        return cls(Scheduler(SchedulerConfig(**config), draw_seed=lambda: next(seeds)), audited=audited)

    def add(self, request: Request) -> RequestState | None:
        self.requests[request.id] = request
        try:
            state = self.scheduler.add(request, self.now)
        except AdmissionError:
            self.refused.add(request.id)
            return None
        self.audit()
        return state

    def audit(self) -> None:
        if self.audited:
            self.scheduler.check()

    def step(self) -> StepPlan | None:
        self.now += 1.0
        plan = self.scheduler.schedule(self.now)
        self.audit()
        if plan is not None:
            self.plans.append(plan.to_bytes())
            self.write(plan)
            tokens = self.read(StepPlan.from_bytes(self.plans[-1]))
            if self.during is not None:
                self.during()
                self.during = None
            for update in self.scheduler.apply(plan, tokens):
                self.updates.append(update)
                if update.token_id is not None:
                    self.first_token.setdefault(update.sequence.request.id, self.now)
        self.audit()
        for state in self.scheduler.take_ended():
            assert state.request.id not in self.ended, "a request ended twice"
            assert state.finished and len(state.reasons) == state.request.sampling.n
            self.ended[state.request.id] = state
        return plan

    def write(self, plan: StepPlan) -> None:
        scheduler = self.scheduler
        planned = scheduler._planned
        assert planned is not None
        assert 0 < plan.num_tokens <= scheduler.config.max_tokens_per_step
        assert plan.num_sequences <= scheduler.config.max_sequences
        assert len(set(plan.slots.tolist())) == plan.num_tokens, "one slot is written twice in a step"
        size = scheduler.config.block_size
        for index, (sequence, count) in enumerate(planned):
            rows = slice(int(plan.cu_q[index]), int(plan.cu_q[index + 1]))
            # Exactly the tokens that are not in the cache yet, in order.
            assert plan.positions[rows].tolist() == list(range(sequence.computed, sequence.computed + count))
            end = sequence.computed + count
            self.tokens_of_tenant[sequence.request.tenant] += max(
                0, end - max(sequence.computed, self.furthest[sequence])
            )
            self.furthest[sequence] = max(end, self.furthest[sequence])
            for token, position, slot in zip(
                plan.token_ids[rows].tolist(), plan.positions[rows].tolist(), plan.slots[rows].tolist(), strict=True
            ):
                block = slot // size
                assert scheduler.pool.references(block) == 1, "a shared block is written"
                assert scheduler.pool._keys[block] is None, "a registered block is written"
                assert [s for s in scheduler._running if block in s.blocks] == [sequence]
                table = plan.block_tables[index]
                previous = b""
                if position:
                    previous = self.cache[int(table[(position - 1) // size]) * size + (position - 1) % size]
                self.cache[slot] = entry(previous, token)

    def read(self, plan: StepPlan) -> list[int]:
        size = self.scheduler.config.block_size
        tokens = []
        for row, index in enumerate(plan.row_sequence.tolist()):
            length = int(plan.lengths[index])
            assert plan.rows[row] == plan.cu_q[index + 1] - 1
            where = np.arange(length)
            slots = plan.block_tables[index][where // size] * size + where % size
            entries = [self.cache[slot] for slot in slots.tolist()]
            sampling = plan.sampling
            tokens.append(
                draw(entries, int(sampling.seed[row]), int(sampling.choice[row]), int(sampling.position[row]))
            )
        return tokens

    def drain(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if self.step() is None:
                return
        raise AssertionError(f"still busy after {limit} steps: {self.scheduler.load(self.now)}")

    def check_answers(self) -> None:
        """Each request ended once, and said what the model says alone, or the beginning of it if it was cut off."""
        assert self.ended.keys() | self.refused == self.requests.keys()
        for state in self.ended.values():
            for sequence in state.sequences:
                output, reason = answer(seeded(state), sequence.choice, self.scheduler.max_length)
                if sequence.finish_reason in ("stop", "length"):
                    assert (sequence.output_ids, sequence.finish_reason) == (output, reason)
                else:
                    assert sequence.output_ids == output[: sequence.generated]


def seeded(state: RequestState) -> Request:
    return replace(state.request, sampling=replace(state.request.sampling, seed=state.seed))


def request(name: str, prompt: Any = (1, 2, 3), tenant: str = "local", **rest: Any) -> Request:
    at_top = {key: rest.pop(key) for key in ("priority", "deadline", "cache_salt") if key in rest}
    sampling = SamplingParams(**({"max_tokens": 8, "seed": 1} | rest))
    return Request(name, tuple(prompt), sampling, tenant=tenant, **at_top)


# Any requests, any moment, any configuration.

STEMS = [tuple((stem * 5 + i) % 11 for i in range(24)) for stem in range(2)]


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
    }
)

events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), requests),
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
            world.add(request(f"r{number}", **what))
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
    assert world.scheduler.preemptions > 10
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


# Prefix cache.


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


# Budget, chunks and preemption.


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
    assert {len(s.output_ids) for s in world.scheduler._running} == {30}


def test_the_least_important_then_latest_gives_way_when_memory_is_short() -> None:
    world = World.of(num_blocks=6, max_sequences=3, ageing_s=1000.0)
    for name, priority in (("low", 1), ("first", 0), ("second", 0)):
        world.add(request(name, range(4), max_tokens=12, ignore_eos=True, priority=priority))
    order = []
    running: list[Sequence] = []
    for _ in range(200):
        if world.step() is None:
            break
        now_running = list(world.scheduler._running)
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


# Ends.


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
    assert (update.token_id, update.row, update.reason) == (token, 0, reason)


def test_a_stop_string_in_the_last_token_allowed_makes_it_stop() -> None:
    scheduler = World.of().scheduler
    scheduler.add(request("r", max_tokens=1), 0.0)
    update = run_until_sampled(scheduler, 4)
    assert update.reason == "length"
    scheduler.finish(update.sequence, "stop")
    (state,) = scheduler.take_ended()
    assert state.reasons == ("stop",)
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
    ],
)
def test_an_impossible_configuration_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        SchedulerConfig(**({"num_blocks": 4, "max_model_len": 16, "max_sequences": 4} | {field: value}))  # type: ignore[arg-type]


# Fairness and bounded waits.


@dataclass
class Crowd:
    """Tenants that offer load at given rates to a world, round by round."""

    world: World
    rates: dict[str, int]
    prompt: Callable[[int], int]
    output: Callable[[int], int]
    keep: int = 30
    counts: Counter[str] = field(default_factory=Counter)
    served: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def offer(self) -> None:
        for tenant, rate in self.rates.items():
            waiting = sum(s.request.tenant == tenant for s in self.world.scheduler._waiting)
            for _ in range(min(rate, rate * self.keep // 10 - waiting)):
                number = self.counts[tenant]
                self.counts[tenant] += 1
                prompt = [(number * 7 + i) % 11 for i in range(self.prompt(number))]
                name = f"{tenant}{number}"
                self.world.add(
                    request(name, [number, *prompt], tenant, max_tokens=self.output(number), ignore_eos=True)
                )

    def run(self, steps: int) -> Counter[str]:
        before = Counter(self.world.tokens_of_tenant)
        for _ in range(steps):
            self.offer()
            self.world.step()
        return self.world.tokens_of_tenant - before


SHAPES: dict[str, tuple[dict[str, int], Callable[[int], int], Callable[[int], int]]] = {
    "slots are short": ({"max_sequences": 4, "max_tokens_per_step": 64}, lambda n: 4 + n % 5, lambda n: 5 + n % 17),
    "one slot": ({"max_sequences": 1, "max_tokens_per_step": 64}, lambda n: 4 + n % 5, lambda n: 5 + n % 17),
    "the budget is short": ({"max_sequences": 8, "max_tokens_per_step": 12}, lambda n: 20 + n % 9, lambda n: 1 + n % 4),
    "memory is short": ({"max_sequences": 8, "num_blocks": 16}, lambda n: 5 + n % 7, lambda n: 8 + n % 11),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_two_saturating_tenants_at_ten_to_one_get_half_each(shape: str) -> None:
    config, prompt, output = SHAPES[shape]
    world = World.of(**({"num_blocks": 64, "max_waiting": 10_000, "prefix_cache": False, "audited": False} | config))
    crowd = Crowd(world, {"many": 10, "few": 1}, prompt, output)
    crowd.run(100)
    shares = crowd.run(1000)
    share = shares["few"] / shares.total()
    assert 0.45 <= share <= 0.55, shares
    served = [world.scheduler.served(tenant) for tenant in ("many", "few")]
    # Not only the rates: the totals never drift apart by more than what can be in flight.
    assert abs(served[0] - served[1]) <= 2 * world.scheduler.config.max_sequences * 40


def test_unequal_requests_do_not_buy_a_larger_share() -> None:
    """Tokens are shared, not requests: long prompts or long outputs gain nothing."""
    world = World.of(num_blocks=64, max_sequences=4, max_waiting=10_000, audited=False, prefix_cache=False)
    for number in range(200):
        world.add(request(f"l{number}", range(40), "long", max_tokens=20, ignore_eos=True))
        for part in range(4):
            world.add(request(f"s{number}.{part}", range(6), "short", max_tokens=4, ignore_eos=True))
    for _ in range(1000):
        world.step()
    share = world.tokens_of_tenant["long"] / world.tokens_of_tenant.total()
    assert 0.45 <= share <= 0.55


def test_idle_time_is_not_saved_up() -> None:
    config, prompt, output = SHAPES["slots are short"]
    world = World.of(num_blocks=64, max_waiting=10_000, audited=False, prefix_cache=False, **config)
    Crowd(world, {"busy": 3}, prompt, output).run(1000)
    both = Crowd(world, {"busy": 3, "back": 3}, prompt, output, counts=Counter(busy=10_000))
    shares = both.run(400)
    assert 0.45 <= shares["back"] / shares.total() <= 0.55


def test_leaving_and_coming_back_does_not_clear_a_tenants_account() -> None:
    world = World.of(max_sequences=2, num_blocks=64)
    world.add(request("steady", max_tokens=50, tenant="steady", ignore_eos=True))
    world.add(request("greedy", range(40), tenant="greedy", max_tokens=2, ignore_eos=True))
    while "greedy" not in world.ended:
        world.step()
    before = world.scheduler.served("greedy")
    assert before > world.scheduler.served("steady")
    world.add(request("greedy again", tenant="greedy"))
    assert world.scheduler.served("greedy") == before


def test_a_newcomer_waits_no_longer_than_for_one_place_beside_any_backlog() -> None:
    world = World.of(num_blocks=64, max_sequences=4, max_waiting=10_000, audited=False)
    for number in range(500):
        world.add(request(f"flood{number}", range(5), "flood", max_tokens=10, ignore_eos=True))
    for _ in range(50):
        world.step()
    came = world.now
    world.add(request("newcomer", range(5), "newcomer"))
    world.drain()
    assert world.first_token["newcomer"] - came <= 10 + 2


def test_within_a_tenant_and_a_priority_first_come_is_first_served() -> None:
    world = World.of(max_sequences=2)
    for number in range(12):
        world.add(request(f"r{number}", [number], max_tokens=3, ignore_eos=True))
    world.drain()
    assert list(world.first_token) == [f"r{number}" for number in range(12)]


def test_the_more_urgent_goes_first() -> None:
    world = World.of(max_sequences=1)
    for name, priority in (("running", 0), ("later", 1), ("sooner", -1), ("normal", 0)):
        world.add(request(name, priority=priority))
        if name == "running":
            world.step()
    world.drain()
    assert list(world.first_token) == ["running", "sooner", "normal", "later"]


@pytest.mark.parametrize(
    # In a tenant of its own it needs to age two levels; in the same one, whatever came in that time goes first.
    ("tenant", "bound"),
    [("patient", 2 * 20 + 20), ("urgent", 2 * 20 * 2 * 8 / 2 + 20)],
)
def test_a_flood_of_urgent_requests_cannot_starve_a_patient_one(tenant: str, bound: float) -> None:
    world = World.of(max_sequences=2, ageing_s=20.0, num_blocks=8)
    world.add(request("patient", range(9), tenant, priority=2, max_tokens=8))
    for number in range(400):
        for part in range(2):
            world.add(request(f"urgent{number}.{part}", range(8), "urgent", priority=0, max_tokens=8, ignore_eos=True))
        world.step()
        if "patient" in world.ended:
            break
    assert world.first_token["patient"] <= bound
    assert world.ended["patient"].reasons[0] in ("stop", "length")


def test_a_long_prompt_is_not_overtaken_for_ever_by_short_ones() -> None:
    world = World.of(num_blocks=10, max_sequences=4, max_waiting=10_000, audited=False)
    world.add(request("short", range(3), max_tokens=20, ignore_eos=True))
    world.step()
    world.add(request("long", range(36), max_tokens=2))
    for number in range(100):
        world.add(request(f"short{number}", range(3), max_tokens=4, ignore_eos=True))
        world.step()
    assert world.first_token["long"] <= 30


def test_tokens_recomputed_or_found_in_the_cache_are_not_charged() -> None:
    world = World.of(num_blocks=8, max_sequences=3)
    world.add(request("before", range(9), max_tokens=1))
    world.drain()
    for number in range(3):
        world.add(request(f"r{number}", range(9), max_tokens=12, ignore_eos=True))
    world.drain()
    assert world.scheduler.preemptions > 0
    prompts = sum(9 - state.usage.cached_tokens for state in world.ended.values())
    assert prompts == 9 + 3 * 1
    assert world.scheduler.served("local") == prompts + 3 * (12 - 1)


def test_idle_tenants_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.engine.fairness._REMEMBERED_TENANTS", 20)
    world = World.of()
    for number in range(100):
        world.add(request(f"r{number}", tenant=f"tenant{number}", max_tokens=1))
        world.step()
    assert len(world.scheduler._waiting._served) <= 21
