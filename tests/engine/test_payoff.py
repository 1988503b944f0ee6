"""Whether drafts pay: the controller against made-up costs, both ways, and as they change."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from deepseek.engine.speculation.payoff import FIRST_INTERVAL, HOPELESS_STEPS, LONGEST_INTERVAL, TRIAL_STEPS, Payoff

Cost = Callable[[int, bool, random.Random], tuple[int, float]]
"""(step, drafted) -> tokens gained, seconds."""


def model(gain: float, slowdown: float, noise: float = 0.1) -> Cost:
    """Drafts bring `gain` tokens a step on average (1: none is right), and make the step `slowdown` times as long."""

    def cost(step: int, drafted: bool, rng: random.Random) -> tuple[int, float]:
        tokens = 1 + sum(rng.random() < (gain - 1) / 3 for _ in range(3)) if drafted else 1
        return tokens, 0.01 * (slowdown if drafted else 1.0) * rng.uniform(1 - noise, 1 + noise)

    return cost


def play(payoff: Payoff, cost: Cost, steps: int, running: int = 1, seed: int = 0, found: float = 1.0) -> list[bool]:
    """Which steps used drafts. found: how often there is something to draft."""
    rng = random.Random(seed)
    used = []
    for step in range(steps):
        drafted = payoff.wants_drafts(running) and rng.random() < found
        used.append(drafted)
        payoff.observe(running, drafted, *cost(step, drafted, rng))
    return used


def share(used: list[bool]) -> float:
    return sum(used) / len(used)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gain", "slowdown"), [(2.5, 1.3), (1.5, 1.1), (3.5, 3.0)])
def test_drafts_that_pay_are_kept(gain: float, slowdown: float, seed: int) -> None:
    used = play(Payoff(), model(gain, slowdown), 3000, seed=seed)
    assert share(used[500:]) >= 0.95


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gain", "slowdown"), [(1.0, 1.2), (1.5, 2.5), (3.0, 4.0)])
def test_drafts_that_do_not_pay_are_left_but_for_probes(gain: float, slowdown: float, seed: int) -> None:
    used = play(Payoff(), model(gain, slowdown), 3000, seed=seed)
    assert share(used[500:]) <= 0.05
    assert any(used[500:])


def test_probes_grow_rarer_while_the_answer_stays_the_same() -> None:
    used = play(Payoff(), model(1.0, 2.0, noise=0.0), 6000)
    probes = [i for i in range(1, 6000) if used[i] and not used[i - 1]]
    gaps = [b - a for a, b in pairwise(probes)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 2 * FIRST_INTERVAL + TRIAL_STEPS
    assert gaps[-1] == LONGEST_INTERVAL + HOPELESS_STEPS


@pytest.mark.parametrize(
    ("before", "after", "patience"), [((3.0, 1.3), (1.0, 1.6), 60), ((1.0, 1.6), (3.0, 1.3), 1100)]
)
def test_when_the_text_changes_the_answer_follows(
    before: tuple[float, float], after: tuple[float, float], patience: int
) -> None:
    payoff = Payoff()
    play(payoff, model(*before), 2000)
    used = play(payoff, model(*after), 3000, seed=1)
    assert share(used[patience:]) >= 0.9 if after[0] > 2 else share(used[patience:]) <= 0.1


def test_each_number_of_sequences_has_its_own_answer() -> None:
    payoff = Payoff()
    for seed in range(40):
        play(payoff, model(2.5, 1.2), 50, running=1, seed=seed)
        play(payoff, model(2.5, 4.0), 50, running=9, seed=seed)
    assert payoff.wants_drafts(1)
    assert not payoff.wants_drafts(9)
    assert not payoff.wants_drafts(64)
    play(payoff, model(1.0, 1.0), TRIAL_STEPS, running=3)
    assert payoff.wants_drafts(2)  # not known yet: worth a try


def test_where_there_is_seldom_something_to_draft_steps_without_count_as_such() -> None:
    used = play(Payoff(), model(1.0, 2.0), 4000, found=0.1)
    assert share(used[2000:]) <= 0.02


def test_one_interruption_changes_no_decision() -> None:
    payoff = Payoff()
    play(payoff, model(2.5, 1.3, noise=0.0), 400)
    payoff.observe(1, True, 1, 60.0)
    assert share(play(payoff, model(2.5, 1.3, noise=0.0), 300)) >= 0.9


def test_the_same_times_give_the_same_decisions() -> None:
    assert play(Payoff(), model(1.6, 1.5), 2000) == play(Payoff(), model(1.6, 1.5), 2000)


def test_a_clock_that_stands_still_changes_nothing() -> None:
    used = play(Payoff(), lambda step, drafted, rng: (1, 0.0), 500)
    assert not any(used)
