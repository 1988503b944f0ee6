"""The circuit breaker: open after three time-outs in a row, tried again by one call at a time."""

from hypothesis import given
from hypothesis import strategies as st

from deepseek.plugins.breaker import OPEN_S, THRESHOLD, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(THRESHOLD):
        assert breaker.lets_through()
        breaker.timed_out()
    return breaker


def test_an_answer_between_time_outs_keeps_it_closed() -> None:
    breaker = Breaker(Clock())
    for _ in range(10):
        breaker.timed_out()
        breaker.timed_out()
        breaker.answered()
    assert breaker.lets_through() and not breaker.open


def test_an_open_one_lets_nothing_through_and_then_one_call() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.lets_through()
    clock.now += OPEN_S
    assert breaker.lets_through() and not breaker.lets_through()
    breaker.answered()
    assert breaker.lets_through() and breaker.lets_through()


def test_a_trial_that_times_out_opens_it_again_and_one_given_up_may_be_repeated() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_S
    assert breaker.lets_through()
    breaker.gave_up()
    assert breaker.lets_through()
    breaker.timed_out()
    assert not breaker.lets_through()


@given(st.lists(st.sampled_from(["call", "wait"]), max_size=60), st.data())
def test_it_is_never_stuck(steps: list[str], data: st.DataObject) -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for step in steps:
        if step == "wait":
            clock.now += OPEN_S
        elif breaker.lets_through():
            getattr(breaker, data.draw(st.sampled_from(["answered", "timed_out", "gave_up"])))()
    clock.now += OPEN_S
    assert breaker.lets_through()
