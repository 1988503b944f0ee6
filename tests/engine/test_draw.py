"""Drawing one token against definitions written anew: the noise, and what top-k, top-p and min-p keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_support import random_logits

from deepseek.engine.sampling.draw import HEAD, draw, draw_uniform, largest, scratch_for


def kept_by_definition(
    row: list[float], temperature: float, top_p: float, top_k: int, min_p: float = 0.0
) -> dict[int, float]:
    """Token to probability: softmax in float64, the k best, of those the smallest set that reaches top-p of them,
    of those the ones at least min_p times as likely as the best."""
    weights = [math.exp((value - max(row)) / temperature) for value in row]
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    if top_k:
        order = order[:top_k]
    total = math.fsum(weights[token] for token in order)
    kept: list[int] = []
    reached = 0.0
    for token in order:
        if (top_p < 1 and reached >= top_p * total) or weights[token] < min_p:
            break
        kept.append(token)
        reached += weights[token]
    total = math.fsum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept if weights[token] > 0}


def test_the_noise_is_uniform_and_differs_by_seed_choice_position_and_draw() -> None:
    noise = np.array([draw_uniform(seed, 0, position) for seed in range(20) for position in range(200)])
    assert noise.min() >= 0 and noise.max() < 1
    counts = np.histogram(noise, 16, (0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 15 + 4 * math.sqrt(30)
    lag = noise.reshape(20, 200)
    assert abs(np.corrcoef(lag[:, :-1].ravel(), lag[:, 1:].ravel())[0, 1]) < 0.06
    places = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (2**63 - 1, 63, 2**40, 9)]
    assert len({draw_uniform(*place) for place in places}) == len(places)


def test_the_noise_is_the_same_in_every_process() -> None:
    """Recorded runs replay only if these numbers never change."""
    assert [draw_uniform(7, 1, position) for position in (0, 5)] == [0.8824668302545412, 0.47200123282368456]


@settings(max_examples=200)
@given(
    size=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.05, 5.0),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    top_k=st.integers(0, 50),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    ties=st.booleans(),
    banned=st.booleans(),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_only_the_kept_tokens_are_drawn_each_at_its_place(
    size: int,
    seed: int,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    ties: bool,
    banned: bool,
    uniform: float,
) -> None:
    row = random_logits(1, size, seed)[0]
    if ties:
        row = row.round()
    if banned:
        row[1::2] = -math.inf
    token = draw(row.numpy(), temperature, top_p, top_k, uniform, min_p)
    slack = 1e-9
    candidates = [
        kept_by_definition(row.tolist(), temperature, p, top_k, m)
        for p in {top_p, min(1.0, top_p + slack), max(0.001, top_p - slack)}
        for m in {min_p, min_p * (1 - slack), min_p * (1 + slack)}
    ]
    assert any(token in kept for kept in candidates)
    if any(len(kept) != len(candidates[0]) for kept in candidates):
        return  # rounding decides whether the set has reached top-p
    kept = candidates[0]
    by_id = not 0 < top_k < size and top_p == 1.0
    order = sorted(kept) if by_id else list(kept)
    before = math.fsum(kept[other] for other in order[: order.index(token)])
    assert before - slack <= uniform <= before + kept[token] + slack


@pytest.mark.parametrize("top_p", [0.9, 0.9999])
@pytest.mark.parametrize("ties", [False, True])
def test_top_p_looks_past_its_first_512_candidates(top_p: float, ties: bool) -> None:
    row = random_logits(1, 5000)[0] / 3
    if ties:
        row = row.round()
    for min_p in (0.0, 0.01):
        kept = kept_by_definition(row.tolist(), 1.0, top_p, 0, min_p)
        assert len(kept) > HEAD
        ends = np.cumsum(list(kept.values()))
        for uniform in np.linspace(0, 1, 60, endpoint=False):
            token = draw(row.numpy(), 1.0, top_p, 0, uniform, min_p)
            assert token == list(kept)[int(np.searchsorted(ends, uniform, side="right"))]
        assert draw(row.numpy(), 1.0, top_p, 0, 1 - 2**-53, min_p) == list(kept)[-1]


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    row = np.zeros(8, np.float32)
    for top_p, kept in ((0.25, 1), (0.2525, 2), (0.5, 2), (0.505, 3), (0.99, 4)):
        assert {draw(row, 1.0, top_p, 4, uniform) for uniform in np.linspace(0, 0.99, 40)} == set(range(kept))


def test_top_k_beyond_the_vocabulary_keeps_everything() -> None:
    logits = random_logits(1, 6)[0].numpy() / 3
    found = {draw(logits, 1.0, 1.0, 2**31 - 1, uniform) for uniform in np.linspace(0, 1, 500, endpoint=False)}
    assert found == set(range(6))


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    row = np.array([-math.inf, 0.0, -math.inf, 1.0, -math.inf], np.float32)
    for uniform in (0.0, 0.26, 0.5, 1 - 2**-53):
        for top_p, top_k in ((1.0, 0), (0.99999, 0), (1.0, 5), (1.0, 3), (0.9999, 4)):
            for min_p in (0.0, 0.001):
                assert draw(row, 1.0, top_p, top_k, uniform, min_p) in (1, 3)


@settings(max_examples=100)
@given(
    size=st.integers(1, 3000),
    count=st.integers(1, 1200),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from(["all different", "many ties", "mostly banned", "clustered", "equal"]),
)
def test_the_largest_are_found_in_order_and_ties_by_id(size: int, count: int, seed: int, spread: str) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=size).astype(np.float32)
    if spread == "many ties":
        values = values.round()
    elif spread == "mostly banned":
        values[random.random(size) < 0.99] = -np.inf
    elif spread == "clustered":
        values.sort()
    elif spread == "equal":
        values[:] = 1.0
    assert largest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_room_that_others_have_used_changes_nothing() -> None:
    scratch = scratch_for(3000)
    scratch.fill(math.nan)
    for seed in range(12):
        row = random_logits(1, 3000, seed)[0].numpy() / (1 + seed % 3)
        options = (0.9, (1.0, 0.97)[seed % 2], (0, 0, 40)[seed % 3], seed / 12, (0.0, 0.0, 0.0, 0.02)[seed % 4])
        assert draw(row, *options, scratch=scratch) == draw(row, *options)
