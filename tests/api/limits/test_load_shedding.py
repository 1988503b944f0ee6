"""Tiers keep their shares, lend what they do not use, and the lower give way first: by hand, and in a simulated engine."""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deepseek.api.identity.caller import EVERYTHING, LOCAL_CALLER, Caller
from deepseek.api.limits.config import Contract, DynamicConfig
from deepseek.api.limits.overload import InFlight, Overload
from deepseek.api.problems import Problem
from deepseek.api.tiers import BASIC, DEFAULT_TIERS, ENTERPRISE, PROFESSIONAL, Tier
from deepseek.core.engine import Request
from deepseek.core.sampling import SamplingParams

FIXED = DynamicConfig(floor=70, ceiling=70, headroom=0.1)
"""Shares of 10, 20 and 40."""


def caller(tier: Tier, tenant: str = "acme") -> Caller:
    return Caller(tenant, tier, EVERYTHING, tenant)


def request(n: int = 1, tokens: int = 100) -> Request:
    return Request("r", (1,) * tokens, SamplingParams(n=n))


def fill(overload: Overload, who: Caller, most: int = 10_000) -> list[InFlight]:
    entered = []
    for _ in range(most):
        try:
            entered.append(overload.enter(who, request()))
        except Problem as problem:
            assert (problem.kind, problem.status) == ("overloaded", 429)
            assert int(problem.headers["Retry-After"]) >= 1
            break
    return entered


def test_unused_shares_are_lent_but_the_lowest_tier_leaves_room() -> None:
    for tier, most in ((BASIC, 63), (PROFESSIONAL, 67), (ENTERPRISE, 70)):
        assert len(fill(Overload(FIXED, DEFAULT_TIERS), caller(tier))) == most


def test_a_tier_below_its_share_is_served_whatever_the_others_have_borrowed() -> None:
    overload = Overload(FIXED, DEFAULT_TIERS)
    assert len(fill(overload, caller(BASIC))) == 63
    assert len(fill(overload, caller(ENTERPRISE))) == 40
    assert len(fill(overload, caller(PROFESSIONAL))) == 20


def test_when_the_limit_is_reached_those_above_their_share_are_refused_until_they_are_below() -> None:
    overload = Overload(FIXED, DEFAULT_TIERS)
    borrowed = fill(overload, caller(BASIC))
    fill(overload, caller(ENTERPRISE))
    fill(overload, caller(PROFESSIONAL))
    for done in borrowed[:53]:
        done.leave()
        assert not fill(overload, caller(BASIC), 1)
    borrowed[53].leave()
    assert len(fill(overload, caller(BASIC))) == 1


def test_an_answer_of_many_choices_counts_as_many() -> None:
    overload = Overload(FIXED, DEFAULT_TIERS)
    many = overload.enter(caller(BASIC), request(n=64))
    assert not fill(overload, caller(BASIC), 1)
    many.leave()
    assert overload.partitions["basic"].choices == overload.partitions["basic"].requests == 0
    assert len(fill(overload, caller(BASIC))) == 63


def test_a_contract_has_a_floor_and_a_ceiling() -> None:
    contracts = {"acme": Contract(floor=5, ceiling=8)}
    overload = Overload(FIXED.model_copy(update={"contracts": contracts}), DEFAULT_TIERS)
    fill(overload, caller(ENTERPRISE, "other"))
    fill(overload, caller(BASIC, "other"))
    assert len(fill(overload, caller(BASIC, "acme"))) == 5
    free = Overload(FIXED.model_copy(update={"contracts": contracts}), DEFAULT_TIERS)
    assert len(fill(free, caller(ENTERPRISE, "acme"))) == 8


def test_a_server_without_keys_refuses_nobody() -> None:
    assert len(fill(Overload(FIXED, DEFAULT_TIERS), LOCAL_CALLER, 1000)) == 1000


def test_without_a_dynamic_limit_nobody_is_refused() -> None:
    assert len(fill(Overload(None, DEFAULT_TIERS), caller(BASIC), 1000)) == 1000


def test_the_question_before_the_body_is_answered_as_the_one_after_it() -> None:
    overload = Overload(FIXED, DEFAULT_TIERS)
    overload.check(caller(BASIC))
    fill(overload, caller(BASIC))
    with pytest.raises(Problem, match="tier basic already has more than its share"):
        overload.check(caller(BASIC))
    overload.check(caller(ENTERPRISE))


def test_a_tier_nobody_told_of_gets_a_share_when_it_first_asks() -> None:
    overload = Overload(FIXED)
    assert len(fill(overload, caller(BASIC))) == 70
    assert len(fill(overload, caller(ENTERPRISE))) == 56


def test_those_who_gave_up_in_the_queue_are_heard_too() -> None:
    now = 0.0
    config = DynamicConfig(floor=8, ceiling=64, window_s=1e-9, window_samples=1)
    overload = Overload(config, DEFAULT_TIERS, clock=lambda: now)
    for waits in (False, True):
        for _ in range(40):
            entered = overload.enter(caller(ENTERPRISE), request())
            entered.submitted()
            now += 60.0 if waits else 0.1
            if not waits:
                entered.first_result()
            entered.leave()
    assert overload.law is not None and overload.law.limit < 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DEFAULT_TIERS), st.integers(1, 4), st.booleans()), max_size=150))
def test_no_share_is_ever_denied_and_nothing_is_lost_in_the_count(steps: list[tuple[Tier, int, bool]]) -> None:
    overload = Overload(FIXED, DEFAULT_TIERS)
    inside: list[tuple[Tier, int, InFlight]] = []
    for tier, n, leaves in steps:
        if leaves and inside:
            *_, gone = inside.pop(0)
            gone.leave()
        held = Counter[str]()
        for other, choices, _ in inside:
            held[other.name] += choices
        share = 70 * tier.share / 7
        try:
            inside.append((tier, n, overload.enter(caller(tier), request(n))))
        except Problem:
            assert held[tier.name] >= share and held.total() >= 63
        else:
            assert held[tier.name] < share or held.total() < 70
    for *_, entered in inside:
        entered.leave()
    assert all(part.choices == part.requests == 0 for part in overload.partitions.values())


@pytest.mark.parametrize(
    "section",
    [
        {"floor": 20, "ceiling": 10},
        {"initial": 5, "floor": 10},
        {"ceiling": 50, "contracts": {"a": {"floor": 30}, "b": {"floor": 30}}},
        {"contracts": {"a": {"floor": 3, "ceiling": 2}}},
        {"celing": 5},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DynamicConfig.model_validate(section)


@dataclass
class SimulatedEngine:
    """Serves `slots` requests at once, by priority, then arrival; the prompt takes its time, then the answer does."""

    overload: Overload
    slots: int
    per_token_s: float = 0.0005
    answer_s: float = 2.0
    seed: int = 0
    now: float = 0.0
    waits: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    shed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    came: Counter[str] = field(default_factory=Counter)
    limits: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._queue: list[tuple[int, int, float, InFlight, int, str]] = []
        self._running = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), what))

    def arrivals(self, tier: Tier, per_s: float, begins: float, ends: float) -> None:
        def arrive() -> None:
            self.came[tier.name] += 1
            tokens = self._random.choice((20, 200, 1000))
            try:
                entered = self.overload.enter(caller(tier, tier.name), request(tokens=tokens))
            except Problem:
                self.shed[tier.name].append(self.now)
            else:
                entered.submitted()
                heapq.heappush(self._queue, (tier.priority, next(self._order), self.now, entered, tokens, tier.name))
                self._start()
            following = self.now + self._random.expovariate(per_s)
            if following < ends:
                self.at(following, arrive)

        self.at(begins + self._random.expovariate(per_s), arrive)

    def _start(self) -> None:
        while self._queue and self._running < self.slots:
            _, _, arrived, entered, tokens, tier = heapq.heappop(self._queue)
            self._running += 1
            waited = self.now - arrived
            self.waits[tier].append((self.now, waited))
            first = self.now + self.per_token_s * (tokens + 50)
            self.at(first, lambda entered=entered, waited=waited: (entered.ready(waited), entered.first_result()))
            self.at(first + self._random.uniform(0.5, 1.5) * self.answer_s, lambda entered=entered: self._end(entered))

    def _end(self, entered: InFlight) -> None:
        self._running -= 1
        entered.leave()
        self._start()

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
            assert self.overload.law is not None
            self.limits.append((self.now, self.overload.law.limit))
        self.now = until

    def limits_between(self, begins: float, ends: float) -> list[float]:
        return [limit for when, limit in self.limits if begins <= when < ends]

    def longest_wait(self, tier: str, begins: float, ends: float, share: float = 0.99) -> float:
        waits = sorted(waited for when, waited in self.waits[tier] if begins <= when < ends)
        return waits[int(share * (len(waits) - 1))]


def simulated(slots: int, **changes: object) -> SimulatedEngine:
    config = DynamicConfig(floor=8, ceiling=512).model_copy(update=changes)
    overload = Overload(config, DEFAULT_TIERS, clock=lambda: engine.now)
    engine = SimulatedEngine(overload, slots)
    return engine


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_limit_finds_the_capacity_and_follows_it_down_and_up_without_swinging() -> None:
    engine = simulated(64)
    for tier in DEFAULT_TIERS:
        engine.arrivals(tier, 20.0, 0.0, 240.0)
    engine.run(80.0)
    engine.slots = 24
    engine.run(160.0)
    engine.slots = 64
    engine.run(240.0)
    for begins, ends, slots in ((40, 80, 64), (120, 160, 24), (200, 240, 64)):
        seen = engine.limits_between(begins, ends)
        assert 0.7 * slots <= mean(seen) <= 1.6 * slots, (begins, mean(seen))
        assert min(seen) >= 0.5 * slots and max(seen) <= 2.0 * slots, (begins, min(seen), max(seen))
        # Requests wait for a fraction of an answer's time, not for whole ones.
        assert engine.longest_wait("enterprise", begins, ends) < 0.5


def test_a_flood_of_the_lowest_tier_leaves_the_highest_alone() -> None:
    engine = simulated(64)
    engine.arrivals(ENTERPRISE, 8.0, 0.0, 120.0)
    engine.arrivals(BASIC, 200.0, 40.0, 120.0)
    engine.run(120.0)
    assert not engine.shed["enterprise"]
    assert engine.longest_wait("enterprise", 0, 40) == 0.0
    # The wait for one of 64 slots to be free.
    assert engine.longest_wait("enterprise", 50, 120) < 0.25
    served = engine.came["basic"] - len(engine.shed["basic"])
    # What is left of the capacity is not left idle.
    assert served / 80 > 0.6 * (64 / 2.2 - 8)


def test_the_middle_tier_gives_way_after_the_lowest_and_before_the_highest() -> None:
    engine = simulated(64)
    for tier in DEFAULT_TIERS:
        engine.arrivals(tier, 25.0, 0.0, 120.0)
    engine.run(120.0)
    rates = [len(engine.shed[tier.name]) / engine.came[tier.name] for tier in DEFAULT_TIERS]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[2] + 0.3


def test_a_limit_never_passes_its_floor_though_the_engine_stands_still() -> None:
    engine = simulated(64, floor=20)
    for tier in DEFAULT_TIERS:
        engine.arrivals(tier, 20.0, 0.0, 150.0)
    engine.run(30.0)
    engine.slots = 1
    engine.run(150.0)
    assert min(engine.limits_between(0, 150)) == 20
    # And it is used: those admitted are more than the one slot.
    assert engine.overload.partitions["enterprise"].choices >= 20 * 4 // 7
