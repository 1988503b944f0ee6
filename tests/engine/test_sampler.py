"""The sampler against definitions written anew: distribution, truncation, logprobs, and rows that are not numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepseek.engine.plan import SamplingPlan
from deepseek.engine.sampler import FAILED_ROW, draw, draw_uniform, sample


def plan(rows: int, **changes: object) -> SamplingPlan:
    """One value for all rows, or a list."""
    values = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 1,
        "choice": 0,
        "position": 0,
        "logprobs": -1,
    } | changes
    types = {
        "temperature": "f4",
        "top_p": "f4",
        "top_k": "i4",
        "seed": "u8",
        "choice": "i4",
        "position": "i8",
        "logprobs": "i4",
    }
    return SamplingPlan(
        **{name: np.broadcast_to(np.asarray(values[name], kind), (rows,)) for name, kind in types.items()}
    )


def random_logits(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def kept_by_definition(row: list[float], temperature: float, top_p: float, top_k: int) -> dict[int, float]:
    """Token to probability: softmax in float64, the k best, of those the smallest set that reaches top-p of them."""
    weights = [math.exp((value - max(row)) / temperature) for value in row]
    order = sorted(range(len(row)), key=lambda token: (-weights[token], token))
    if top_k:
        order = order[:top_k]
    total = math.fsum(weights[token] for token in order)
    kept: list[int] = []
    reached = 0.0
    for token in order:
        if top_p < 1 and reached >= top_p * total:
            break
        kept.append(token)
        reached += weights[token]
    total = math.fsum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept if weights[token] > 0}


def test_the_draws_follow_the_softmax() -> None:
    size, draws = 24, 20_000
    row = random_logits(1, size)
    found = sample(row.expand(draws, size), plan(draws, position=np.arange(draws), temperature=1.5)).token_ids
    expected = torch.softmax(row[0].double() / 1.5, 0).numpy() * draws
    rare = expected < 5
    counts = np.bincount(found, minlength=size)
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    chi_square = float(((observed - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum())
    assert chi_square < len(wanted) - 1 + 4 * math.sqrt(2 * len(wanted))


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


@settings(max_examples=150)
@given(
    size=st.integers(2, 40),
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.05, 5.0),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    top_k=st.integers(0, 50),
    ties=st.booleans(),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_only_the_kept_tokens_are_drawn_each_at_its_place(
    size: int, seed: int, temperature: float, top_p: float, top_k: int, ties: bool, uniform: float
) -> None:
    row = random_logits(1, size, seed)[0]
    if ties:
        row = row.round()
    kept = kept_by_definition(row.tolist(), temperature, top_p, top_k)
    token = draw(row.numpy(), temperature, top_p, top_k, uniform)
    slack = 1e-9
    truncated = top_k > 0 or top_p < 1.0
    order = list(kept) if truncated else sorted(kept)
    if token not in kept:  # only where rounding decides whether the set has reached top-p
        wider = kept_by_definition(row.tolist(), temperature, min(1.0, top_p + slack), top_k)
        assert token in wider and len(wider) == len(kept) + 1
        return
    before = math.fsum(kept[other] for other in order[: order.index(token)])
    narrower = kept_by_definition(row.tolist(), temperature, max(0.001, top_p - slack), top_k)
    if len(narrower) == len(kept):
        assert before - slack <= uniform <= before + kept[token] + slack


@pytest.mark.parametrize("top_p", [0.9, 0.9999])
def test_top_p_looks_past_its_first_512_candidates(top_p: float) -> None:
    row = random_logits(1, 5000)[0] / 3
    found = {draw(row.numpy(), 1.0, top_p, 0, uniform) for uniform in np.linspace(0, 1, 60, endpoint=False)}
    kept = kept_by_definition(row.tolist(), 1.0, top_p, 0)
    assert found <= set(kept)
    assert len(kept) > 512
    assert draw(row.numpy(), 1.0, top_p, 0, 1 - 2**-53) == list(kept)[-1]


def test_a_row_draws_the_same_token_alone_and_in_company() -> None:
    logits = random_logits(32, 300)
    settings_of_rows = plan(
        32, seed=np.arange(32) % 3, position=np.arange(32), top_k=np.arange(32) % 4 * 20, top_p=0.8, logprobs=2
    )
    together = sample(logits, settings_of_rows)
    for row in range(32):
        own = SamplingPlan(
            **{n: getattr(settings_of_rows, n)[row : row + 1] for n in SamplingPlan.__dataclass_fields__}
        )
        single = sample(logits[row : row + 1], own)
        assert (single.token_ids[0], single.logprobs[0]) == (together.token_ids[row], together.logprobs[row])


def test_temperature_zero_takes_the_first_of_the_best() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0], [2.0, 2.0, 2.0, 2.0], [1.0, -math.inf, 0.0, 9.0]])
    assert sample(logits, plan(3, temperature=0.0)).token_ids == [1, 0, 3]


@pytest.mark.parametrize("tiny", [1e-6, 1e-30, 1e-45])
def test_a_tiny_temperature_is_greedy(tiny: float) -> None:
    logits = random_logits(8, 50) * 1e30
    found = sample(logits, plan(8, temperature=tiny, position=np.arange(8)))
    assert found.token_ids == logits.argmax(1).tolist()


def test_a_huge_temperature_is_nearly_uniform() -> None:
    draws = 4000
    found = sample(random_logits(1, 10).expand(draws, 10), plan(draws, temperature=100.0, position=np.arange(draws)))
    counts = np.bincount(found.token_ids, minlength=10)
    assert counts.min() > 300 and counts.max() < 520


def test_top_k_of_one_is_greedy_at_any_temperature() -> None:
    logits = random_logits(20, 50).round()
    found = sample(logits, plan(20, temperature=2.0, top_k=1, position=np.arange(20)))
    assert found.token_ids == logits.numpy().argmax(1).tolist()


def test_top_k_beyond_the_vocabulary_keeps_everything() -> None:
    logits = random_logits(1, 6)[0].numpy() / 3
    found = {draw(logits, 1.0, 1.0, 2**31 - 1, uniform) for uniform in np.linspace(0, 1, 500, endpoint=False)}
    assert found == set(range(6))


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    row = torch.tensor([-math.inf, 0.0, -math.inf, 1.0, -math.inf]).numpy()
    for uniform in (0.0, 0.26, 0.5, 1 - 2**-53):
        for top_p, top_k in ((1.0, 0), (0.99999, 0), (1.0, 5)):
            assert draw(row, 1.0, top_p, top_k, uniform) in (1, 3)


@pytest.mark.parametrize(
    "bad", [[math.nan, 0.0, 1.0], [0.0, 1.0, math.nan], [math.inf, 0.0, 1.0], [-math.inf] * 3, [math.nan] * 3]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_numbers_fails_alone(bad: list[float], temperature: float) -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], bad, [9.0, 0.0, 0.0]])
    found = sample(logits, plan(3, temperature=temperature, top_k=1, logprobs=1))
    assert found.token_ids == [1, FAILED_ROW, 0]
    assert found.logprobs[1] is None and found.logprobs[0] is not None


def test_logprobs_are_the_log_softmax_whatever_the_sampling() -> None:
    logits = random_logits(16, 200)
    found = sample(logits, plan(16, temperature=0.7, top_k=5, logprobs=4, position=np.arange(16)))
    expected = torch.log_softmax(logits.double(), 1)
    for row, (token, logprob) in enumerate(zip(found.token_ids, found.logprobs, strict=True)):
        assert logprob is not None and logprob.token_id == token
        assert logprob.logprob == pytest.approx(float(expected[row, token]), abs=1e-12)
        values, ids = expected[row].topk(4)
        assert [i for i, _ in logprob.top] == ids.tolist()
        assert [value for _, value in logprob.top] == pytest.approx(values.tolist(), abs=1e-12)


def test_logprobs_list_ties_by_id_and_no_more_than_the_vocabulary() -> None:
    logprob = sample(torch.zeros(1, 4), plan(1, temperature=0.0, logprobs=20)).logprobs[0]
    assert logprob is not None
    assert [token for token, _ in logprob.top] == [0, 1, 2, 3]


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.zeros(0, 4), plan(0)).token_ids == []
