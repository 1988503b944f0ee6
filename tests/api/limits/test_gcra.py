"""The rate of a tier holds to the nanosecond, bursts included, whoever asks in between."""

import asyncio
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.api.identity.caller import EVERYTHING, LOCAL_CALLER, Caller
from deepseek.api.limits.gcra import NS, LocalLimiter, spacing_and_burst
from deepseek.api.limits.rate import Verdict
from deepseek.api.tiers import Tier


class Clock:
    """Nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def caller(rate: float | None, burst_s: float = 1.0, subject: str = "key-1") -> Caller:
    return Caller("acme", Tier("basic", rate, burst_s=burst_s), EVERYTHING, subject)


def conforms(passed: list[int], now: int, spacing: int, burst: int) -> bool:
    """Whether one more request may pass, by the definition and not by the algorithm: in no stretch of time that ends now
    do those that passed need more than the stretch and one burst."""
    return all(
        (len(passed) - index + 1) * spacing <= burst + (now - since) for index, since in enumerate([*passed, now])
    )


@settings(max_examples=300, deadline=None)
@given(
    rate=st.integers(1, 2000),
    burst_ms=st.integers(1, 3000),
    pauses=st.lists(st.integers(0, 3 * NS // 10) | st.integers(0, 3_000_000), max_size=60),
)
def test_a_request_passes_exactly_when_no_stretch_of_time_holds_too_many(
    rate: int, burst_ms: int, pauses: list[int]
) -> None:
    clock, asks = Clock(), caller(rate, burst_ms / 1000)
    limiter = LocalLimiter(clock)
    spacing, burst = spacing_and_burst(asks.tier)
    passed: list[int] = []
    for pause in pauses:
        clock.now += pause
        verdict = limiter.decide(asks)
        assert verdict.allowed == conforms(passed, clock.now, spacing, burst)
        if verdict.allowed:
            passed.append(clock.now)


@settings(max_examples=100, deadline=None)
@given(rate=st.integers(1, 2000), burst_ms=st.integers(1, 3000), asks=st.integers(1, 80))
def test_who_comes_again_when_told_passes_and_a_nanosecond_earlier_does_not(
    rate: int, burst_ms: int, asks: int
) -> None:
    clock, who = Clock(), caller(rate, burst_ms / 1000)
    limiter = LocalLimiter(clock)
    for _ in range(asks):
        verdict = limiter.decide(who)
        if not verdict.allowed:
            wait = round(verdict.retry_s * NS)
            clock.now += wait - 1
            assert not limiter.decide(who).allowed
            clock.now += 1
            assert limiter.decide(who).allowed


@settings(max_examples=100, deadline=None)
@given(rate=st.integers(1, 2000), burst_ms=st.integers(1, 3000), pauses=st.lists(st.integers(0, NS), max_size=20))
def test_what_is_said_to_remain_is_what_passes_at_once(rate: int, burst_ms: int, pauses: list[int]) -> None:
    clock, who = Clock(), caller(rate, burst_ms / 1000)
    limiter = LocalLimiter(clock)
    for pause in pauses:
        clock.now += pause
        limiter.decide(who)
    verdict = limiter.decide(who)
    assert sum(limiter.decide(who).allowed for _ in range(verdict.remaining + 3)) == verdict.remaining


def asked(rate: float, seconds: int, every_ns: int) -> int:
    """How many pass in so many seconds of asking without pause, after the burst is drained."""
    clock, who = Clock(), caller(rate, 0.2)
    limiter = LocalLimiter(clock)
    while limiter.decide(who).allowed:
        pass
    ends, passed = seconds * NS, 0
    while clock.now < ends:
        clock.now += every_ns
        passed += limiter.decide(who).allowed
    return passed


@pytest.mark.parametrize("rate", [100.0, 500.0])
@pytest.mark.parametrize("every_ns", [250_000, 1_234_567])
def test_the_tiers_hold_their_rate_within_two_percent_over_ten_seconds(rate: float, every_ns: int) -> None:
    assert abs(asked(rate, 10, every_ns) / (10 * rate) - 1) <= Fraction(2, 100)


def test_after_the_burst_a_whole_burst_is_there_again_only_once_its_time_has_passed() -> None:
    clock, who = Clock(), caller(100.0, 0.2)
    limiter = LocalLimiter(clock)
    assert [limiter.decide(who).allowed for _ in range(21)] == [True] * 20 + [False]
    clock.now += NS // 5
    assert [limiter.decide(who).allowed for _ in range(21)] == [True] * 20 + [False]


def test_subjects_are_counted_apart() -> None:
    limiter = LocalLimiter(Clock())
    one, other = caller(1.0, subject="key-1"), caller(1.0, subject="key-2")
    assert limiter.decide(one).allowed and not limiter.decide(one).allowed
    assert limiter.decide(other).allowed


def test_a_tier_without_a_rate_is_not_limited_and_says_nothing_of_limits() -> None:
    limiter = LocalLimiter(Clock())
    verdicts = [asyncio.run(limiter.take(LOCAL_CALLER)) for _ in range(3)]
    assert all(verdict.allowed and verdict.headers() == [] for verdict in verdicts)
    assert len(limiter) == 0


def test_a_rate_below_one_a_second_with_a_short_burst_still_lets_one_through() -> None:
    clock, who = Clock(), caller(0.1, 0.2)
    limiter = LocalLimiter(clock)
    assert limiter.decide(who).allowed
    assert limiter.decide(who) == Verdict(False, 1, 0, reset_s=10.0, retry_s=10.0)


def test_subjects_that_rest_are_forgotten() -> None:
    def subjects() -> Iterator[str]:
        for number in range(20_000):
            yield f"key-{number}"

    clock = Clock()
    limiter = LocalLimiter(clock)
    largest = 0
    for subject in subjects():
        clock.now += NS // 1000  # a thousand new subjects a second, each with a burst of a fifth
        assert limiter.decide(caller(100.0, 0.2, subject)).allowed
        largest = max(largest, len(limiter))
    assert largest <= 2 * 200
    clock.now += NS
    for _ in range(largest):
        limiter.decide(caller(1000.0, subject="key-1"))
    assert len(limiter) == 1


def test_a_subject_that_is_still_counted_is_not_forgotten() -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    slow = caller(0.01, subject="slow")
    assert limiter.decide(slow).allowed
    for number in range(1000):
        clock.now += NS // 100
        limiter.decide(caller(100.0, 0.2, f"key-{number}"))
    assert not limiter.decide(slow).allowed


@pytest.mark.parametrize(
    ("retry_s", "seconds", "milliseconds"),
    [(0.0001, "1", "1"), (0.25, "1", "250"), (1.0, "1", "1000"), (1.2, "2", "1200")],
)
def test_a_wait_is_told_in_whole_seconds_rounded_up_and_in_milliseconds(
    retry_s: float, seconds: str, milliseconds: str
) -> None:
    verdict = Verdict(False, 20, 0, 0.2, retry_s)
    assert verdict.retry_headers() == {"Retry-After": seconds, "retry-after-ms": milliseconds}
