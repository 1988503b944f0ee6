"""The limit follows the engine: down when requests wait, up when they do not, within its bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.api.limits.config import DynamicConfig
from deepseek.api.limits.gradient import BASE_TOKENS, Gradient2

EACH = DynamicConfig(window_s=1e-9, window_samples=1, floor=16, ceiling=256)
"""Every first token but the very first ends a window."""


def law(**changes: object) -> Gradient2:
    return Gradient2(EACH.model_copy(update=changes))


def feed(
    gradient: Gradient2, count: int, queued_s: float, service_s: float, in_flight: float, tokens: int = 744
) -> None:
    for _ in range(count):
        gradient.observe(gradient_time(), queued_s, service_s, tokens, round(in_flight))


def gradient_time() -> float:
    gradient_time.now += 1.0  # type: ignore[attr-defined]
    return float(gradient_time.now)  # type: ignore[attr-defined]


gradient_time.now = 0.0  # type: ignore[attr-defined]


def test_one_update_is_what_the_formula_gives() -> None:
    gradient = law(initial=100)
    feed(gradient, 2, 0.0, 0.1, 100)  # the first opens the window
    assert gradient.limit == pytest.approx(100 + 0.2 * 10)
    assert gradient.usual == pytest.approx(0.1 / (744 + BASE_TOKENS))
    feed(gradient, 1, 0.1, 0.1, 100)  # a wait as long as the service: gradient 1.5 / 2
    assert gradient.limit == pytest.approx(102 + 0.2 * (102 * 0.75 + 102**0.5 - 102))
    assert gradient.wait_s == pytest.approx(0.2)


def test_without_waiting_the_limit_stays_at_its_ceiling() -> None:
    gradient = law()
    feed(gradient, 100, 0.0, 0.1, 256)
    assert gradient.limit == 256


def test_a_queue_that_stays_is_never_taken_for_usual() -> None:
    gradient = law()
    feed(gradient, 5, 0.0, 0.1, 256)
    feed(gradient, 5000, 5.0, 0.1, 256)
    assert gradient.limit == 16
    assert gradient.usual == pytest.approx(0.1 / (744 + BASE_TOKENS))


def test_the_limit_recovers_when_the_queue_is_gone() -> None:
    gradient = law()
    feed(gradient, 5, 0.0, 0.1, 256)
    feed(gradient, 100, 5.0, 0.1, 256)
    low = gradient.limit
    feed(gradient, 200, 0.0, 0.1, 256)
    assert low < 50 and gradient.limit == 256


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    gradient = law(initial=100)
    feed(gradient, 1000, 0.0, 0.1, 49)
    assert gradient.limit == 100


def test_a_queue_lowers_a_limit_of_which_little_is_used() -> None:
    gradient = law(initial=256)
    feed(gradient, 5, 0.0, 0.1, 40)
    feed(gradient, 20, 1.0, 0.1, 40)
    assert gradient.limit < 80


def test_one_slow_answer_at_idle_changes_nothing() -> None:
    gradient = law(initial=100)
    feed(gradient, 20, 0.0, 0.1, 1)
    feed(gradient, 1, 0.0, 3.0, 1)
    assert gradient.limit == 100


def test_longer_prompts_that_take_longer_are_no_overload() -> None:
    gradient = law(initial=256)
    per_token = 0.001
    for tokens in (10, 4000, 100, 8000, 1, 2000) * 20:
        feed(gradient, 1, 0.0, per_token * (tokens + BASE_TOKENS), 256, tokens)
    assert gradient.limit == 256


def test_a_window_is_closed_by_time_and_by_number() -> None:
    gradient = Gradient2(DynamicConfig(window_s=10, window_samples=3, initial=100, ceiling=200))
    for now in (0.0, 1.0, 2.0, 9.0):
        gradient.observe(now, 0.0, 0.1, 100, 100)
    assert gradient.limit == 100
    gradient.observe(10.0, 0.0, 0.1, 100, 100)
    assert gradient.limit == pytest.approx(102)


def test_a_window_of_few_first_tokens_is_closed_in_the_end() -> None:
    gradient = Gradient2(DynamicConfig(window_s=1, window_samples=100, initial=100, ceiling=200))
    for now in (0.0, 9.0):
        gradient.observe(now, 0.0, 0.1, 100, 100)
    assert gradient.limit == 100
    gradient.observe(10.0, 0.0, 0.1, 100, 100)
    assert gradient.limit == pytest.approx(102)


@settings(max_examples=200, deadline=None)
@given(
    samples=st.lists(
        st.tuples(
            st.floats(-1, 1e6, allow_nan=False),
            st.floats(-1, 1e6, allow_nan=False),
            st.integers(0, 10**6),
            st.integers(0, 10**4),
        ),
        max_size=80,
    )
)
def test_whatever_the_engine_says_the_limit_keeps_its_bounds(samples: list[tuple[float, float, int, int]]) -> None:
    gradient = law()
    for queued_s, service_s, tokens, in_flight in samples:
        feed(gradient, 1, queued_s, service_s, in_flight, tokens)
        assert 16 <= gradient.limit <= 256


def test_first_tokens_that_come_soon_lower_nothing_however_much_later_than_usual_they_are() -> None:
    gradient = law(unhurried_s=0.1)
    feed(gradient, 50, 0.0, 0.0005, 1)
    feed(gradient, 50, 0.03, 0.03, 32)  # a hundred times the usual
    assert gradient.limit == 256
    feed(gradient, 50, 0.1, 0.03, 250)
    assert gradient.limit < 128
