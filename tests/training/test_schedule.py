"""The learning rate against its closed form."""

from __future__ import annotations

import math

import pytest

from deepseek.training.schedule import warmup_cosine


@pytest.mark.parametrize("step", [0, 1, 9])
def test_warm_up_rises_in_equal_steps_to_the_peak(step: int) -> None:
    assert warmup_cosine(step, 100, 0.5, 10, 0.1) == pytest.approx(0.5 * (step + 1) / 10)


@pytest.mark.parametrize("step", [10, 11, 40, 55, 99, 100])
def test_after_it_half_a_cosine_falls_to_the_final_share(step: int) -> None:
    expected = 0.05 + (0.5 - 0.05) * math.cos(math.pi / 2 * (step - 10) / 90) ** 2
    assert warmup_cosine(step, 100, 0.5, 10, 0.1) == pytest.approx(expected)


def test_beyond_the_end_the_final_rate_stays() -> None:
    assert warmup_cosine(1000, 100, 0.5, 10, 0.1) == pytest.approx(0.05)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert warmup_cosine(0, 100, 0.5, 0, 0.1) == 0.5
