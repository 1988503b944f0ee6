"""Who is next: priorities, fair shares of tenants, and bounds on waiting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from scheduler_support import World, request


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
            waiting = sum(s.request.tenant == tenant for s in self.world.scheduler.places.waiting)
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
    assert world.scheduler.places.preemptions > 0
    prompts = sum(9 - state.usage.cached_tokens for state in world.ended.values())
    assert prompts == 9 + 3 * 1
    assert world.scheduler.served("local") == prompts + 3 * (12 - 1)


def test_idle_tenants_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.engine.fairness._REMEMBERED_TENANTS", 20)
    world = World.of()
    for number in range(100):
        world.add(request(f"r{number}", tenant=f"tenant{number}", max_tokens=1))
        world.step()
    assert len(world.scheduler.places.waiting._served) <= 21
