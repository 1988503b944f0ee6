"""The sampler: what is done to each row's logits and in which order, and rows that have nothing to draw from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_support import plan, random_logits, rich_plan, row_of

from deepseek.engine.result import FAILED_ROW
from deepseek.engine.sampling.draw import draw
from deepseek.engine.sampling.plan import KIND_EMBED, KIND_SAMPLE, KIND_SCORE
from deepseek.engine.sampling.sampler import Sampled, sample


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


@pytest.mark.parametrize("size", [2, 31, 300, 5000])
def test_a_row_gives_the_same_bits_alone_and_in_any_company(size: int) -> None:
    rows = 35
    logits, whole = random_logits(rows, size), rich_plan(rows, size)
    together = sample(logits, whole)
    order = np.random.default_rng(1).permutation(rows)
    for row in order.tolist():
        single = sample(logits[row : row + 1], row_of(whole, row))
        assert (single.token_ids[0], single.logprobs[0]) == (together.token_ids[row], together.logprobs[row])
        alone_in_memory = sample(logits[row : row + 1].clone(), row_of(whole, row))
        assert alone_in_memory == single


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


def test_a_bias_is_added_and_a_ban_is_final() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, 4)
    biases = {1: {0: 3.5}, 2: {3: -math.inf, 2: -math.inf}, 3: {0: -math.inf, 1: 100.0, 3: -5.0}}
    assert sample(logits, plan(4, temperature=0.0, bias=biases)).token_ids == [3, 0, 1, 1]


def test_ids_that_the_vocabulary_lacks_change_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    changed = plan(1, temperature=0.0, repetition=2.0, bias={0: {3: 50.0, 2**31 - 1: 1.0}}, seen={0: {3: 1, 2: 0}})
    assert sample(logits, changed).token_ids == [1]


def test_penalties_follow_their_formulas() -> None:
    """repetition first: a positive logit is divided, a negative one multiplied; then count x frequency, then presence."""
    row = torch.tensor([[2.0, -2.0, 1.0, -1.0, 0.9]])
    order = []  # by banning the best again and again
    while len(order) < 5:
        whole = plan(
            1,
            temperature=0.0,
            repetition=2.0,
            frequency=0.5,
            presence=1.0,
            seen={0: {0: 0, 1: 0, 2: 2}},
            bias={0: dict.fromkeys(order, -math.inf)},
        )
        order += sample(row, whole).token_ids
    assert order == [0, 4, 3, 2, 1]  # 2 / 2 = 1; 0.9; -1; 1 / 2 - 2 x 0.5 - 1 = -1.5; -2 x 2 = -4


def test_a_mask_leaves_only_what_it_allows_at_any_size() -> None:
    for size in (1, 31, 32, 33, 64, 97):
        for allowed in {0, size // 2, size - 1}:
            bits = [token == allowed for token in range(size)]
            masked = plan(2, temperature=[0.0, 1.0], allowed={0: bits, 1: bits})
            assert sample(random_logits(2, size), masked).token_ids == [allowed, allowed]


def test_a_mask_shorter_than_the_vocabulary_bans_the_rest() -> None:
    logits = torch.arange(70.0)[None]
    assert sample(logits, plan(1, temperature=0.0, allowed={0: [True] * 32})).token_ids == [31]


def test_a_row_left_with_nothing_fails_alone() -> None:
    everything = dict.fromkeys(range(4), -math.inf)
    tables = plan(
        4,
        temperature=[0.0, 1.0, 0.0, 1.0],
        logprobs=2,
        bias={1: everything, 2: {2: -math.inf}},
        allowed={0: [False] * 4, 2: [False, False, True, False]},
    )
    found = sample(torch.tensor([[0.0, 0.0, 0.0, 9.0]] * 4), tables)
    assert found.token_ids == [FAILED_ROW, FAILED_ROW, FAILED_ROW, 3]
    assert [logprob is None for logprob in found.logprobs] == [True, True, True, False]


def test_a_row_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def faulty(row: np.ndarray, *options: float, **more: object) -> int:
        if row[0] == 7:
            raise RuntimeError("a defect in sampling")
        return draw(row, *options)  # type: ignore[arg-type]

    monkeypatch.setattr("deepseek.engine.sampling.sampler.draw", faulty)
    logits = torch.tensor([[9.0, 0.0], [7.0, 0.0], [0.0, 9.0]])
    assert sample(logits, plan(3, top_k=1)).token_ids == [0, FAILED_ROW, 1]
    assert "a defect in sampling" in caplog.text


def test_overflow_fails_the_row_and_warns_nobody() -> None:
    logits = torch.tensor([[3e38, 0.0], [1.0, 0.0]])
    found = sample(logits, plan(2, temperature=0.0, repetition=0.01, seen={0: {0: 0}, 1: {0: 0}}))
    assert found.token_ids == [FAILED_ROW, 0]


def test_logits_are_left_as_they_were() -> None:
    logits = random_logits(35, 300)
    before = logits.clone()
    sample(logits, rich_plan(35, 300))
    assert torch.equal(logits, before)


def test_score_rows_report_their_targets_logprob_and_the_best() -> None:
    logits = random_logits(3, 50)
    kinds = np.array([KIND_SCORE, KIND_SAMPLE, KIND_SCORE], "i4")
    whole = plan(3, temperature=0.0, logprobs=[2, -1, -1])
    found = sample(logits, whole, kinds, np.array([7, -1, 49]))
    expected = torch.log_softmax(logits.double(), 1)
    assert found.token_ids == [7, int(logits[1].argmax()), 49]
    first, second, third = found.logprobs
    assert first is not None and third is not None and second is None
    assert first.logprob == pytest.approx(float(expected[0, 7]), abs=1e-12)
    assert [token for token, _ in first.top] == expected[0].topk(2).indices.tolist()
    assert third.logprob == pytest.approx(float(expected[2, 49]), abs=1e-12) and third.top == ()


def test_a_scored_token_has_the_logprob_it_would_have_had_when_drawn() -> None:
    logits = random_logits(16, 5000)
    drawn = sample(logits, plan(16, position=np.arange(16), top_p=0.9, logprobs=3))
    scored = sample(logits, plan(16, logprobs=3), np.full(16, KIND_SCORE, "i4"), np.array(drawn.token_ids))
    assert scored == drawn


@pytest.mark.parametrize("target", [-1, 4, 2**40])
def test_a_target_outside_the_vocabulary_fails_its_row(target: int) -> None:
    found = sample(torch.zeros(2, 4), plan(2), np.full(2, KIND_SCORE, "i4"), np.array([target, 3]))
    assert found.token_ids == [FAILED_ROW, 3]
    assert [logprob is None for logprob in found.logprobs] == [True, False]


def test_embed_rows_have_no_logits_and_no_token() -> None:
    kinds = np.array([KIND_EMBED, KIND_SAMPLE, KIND_EMBED, KIND_SCORE, KIND_SAMPLE], "i4")
    whole = plan(5, temperature=0.0, bias={1: {0: 100.0}})
    found = sample(torch.tensor([[0.0, 9.0]] * 3), whole, kinds, np.array([-1, -1, -1, 0, -1]))
    assert found.token_ids == [FAILED_ROW, 0, FAILED_ROW, 0, 1]
    assert [logprob is None for logprob in found.logprobs] == [True, True, True, False, True]
    assert sample(torch.zeros(0, 2), plan(1), np.array([KIND_EMBED]), np.array([-1])) == Sampled([FAILED_ROW], [None])
