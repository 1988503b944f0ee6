"""What a row is planned with, and what comes of it: transformers' logits processors in float64 are the oracle.

transformers has no frequency and presence penalty; those follow the formula of OpenAI's reference.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_support import SCALARS, packed, random_logits
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deepseek.core.engine import Request
from deepseek.core.sampling import SamplingParams
from deepseek.engine.request import RequestState, Sequence
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.sampling.draw import draw_uniform
from deepseek.engine.sampling.history import History
from deepseek.engine.sampling.plan import KIND_EMBED, KIND_SCORE, Row, SamplingPlan, sampling_plan, select_rows
from deepseek.engine.sampling.sampler import sample

SIZE = 40
EOS = 2


def sequence(prompt: list[int], output: list[int], params: SamplingParams, draft: list[int] | None = None) -> Sequence:
    request = Request("r", tuple(prompt), params)
    state = RequestState(request, arrival=0.0, seed=7, order=0, ageing_s=1.0, cache_root=b"")
    result = state.sequences[0]
    result.token_ids += output
    result.draft = draft or []
    return result


def biases(plan: SamplingPlan, row: int = 0) -> dict[int, float]:
    part = slice(plan.bias_start[row], plan.bias_start[row + 1])
    return dict(zip(plan.bias_ids[part].tolist(), plan.bias_values[part].tolist(), strict=True))


def counts(plan: SamplingPlan, row: int = 0) -> dict[int, int]:
    part = slice(plan.seen_start[row], plan.seen_start[row + 1])
    return dict(zip(plan.seen_ids[part].tolist(), plan.seen_counts[part].tolist(), strict=True))


def row_values(plan: SamplingPlan, row: int) -> list[Any]:
    """Everything the plan says about a row, in a form that compares."""
    mask = int(plan.mask_of_row[row])
    allowed = None if mask < 0 else plan.masks[mask].tolist()
    return [*(getattr(plan, name)[row].item() for name in SCALARS), biases(plan, row), counts(plan, row), allowed]


@st.composite
def params(draw: st.DrawFn) -> SamplingParams:
    def sometimes(off: object, on: st.SearchStrategy[Any]) -> Any:
        return draw(st.one_of(st.just(off), on))

    token = st.integers(0, SIZE - 1)
    return SamplingParams(
        temperature=sometimes(0.0, st.floats(0.125, 4.0, width=32)),
        top_p=sometimes(1.0, st.floats(0.0625, 0.984375, width=32)),
        top_k=sometimes(0, st.integers(1, SIZE + 5)),
        min_p=sometimes(0.0, st.floats(0.0009765625, 0.5, width=32)),
        frequency_penalty=sometimes(0.0, st.floats(-2.0, 2.0, width=32)),
        presence_penalty=sometimes(0.0, st.floats(-2.0, 2.0, width=32)),
        repetition_penalty=sometimes(1.0, st.floats(0.5, 2.0, width=32)),
        logit_bias=sometimes((), st.dictionaries(token, st.floats(-8.0, 8.0, width=32), max_size=6)),
        bad_word_ids=sometimes((), st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), max_size=6)),
        min_tokens=sometimes(0, st.integers(1, 12)),
        stop_token_ids=sometimes((), st.lists(token, max_size=2)),
    )


def oracle(
    row: torch.Tensor, tokens: list[int], prompt: int, params: SamplingParams, banned: list[int]
) -> torch.Tensor:
    """The distribution [V] as transformers makes it, in float64."""
    input_ids, scores = torch.tensor([tokens]), row[None].double()
    chain: list[LogitsProcessor] = []
    if params.logit_bias:
        chain.append(SequenceBiasLogitsProcessor({(token,): bias for token, bias in params.logit_bias}))
    if params.bad_word_ids:
        chain.append(NoBadWordsLogitsProcessor([list(word) for word in params.bad_word_ids]))
    if params.min_tokens:
        ends = [EOS, *params.stop_token_ids]
        chain.append(MinNewTokensLengthLogitsProcessor(prompt, params.min_tokens, ends))
    chain.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    for processor in chain:
        scores = processor(input_ids, scores)
    for token, count in Counter(tokens[prompt:]).items():
        scores[0, token] -= count * params.frequency_penalty + params.presence_penalty
    chain = [SuppressTokensLogitsProcessor(banned)] if banned else []
    if params.temperature > 0:
        chain.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    if params.temperature == 0:
        chain = chain[:1] if banned else []
    for processor in chain:
        scores = processor(input_ids, scores)
    return scores[0]


@settings(max_examples=300)
@given(
    params(),
    st.lists(st.integers(0, SIZE - 1), min_size=4, max_size=12),
    st.lists(st.integers(0, SIZE - 1), max_size=12),
    st.lists(st.integers(0, SIZE - 1), max_size=20, unique=True),
    st.integers(0, 10**6),
    st.integers(0, 12),
)
def test_a_row_is_drawn_from_the_distribution_that_transformers_makes(
    params: SamplingParams, prompt: list[int], output: list[int], banned: list[int], seed: int, drafted: int
) -> None:
    """The last tokens of the output may just as well be drafts."""
    drafted = min(drafted, len(output))
    known = len(output) - drafted
    mask = packed([token not in banned for token in range(SIZE)]) if banned else None
    row = Row(sequence(prompt, output[:known], params, output[known:]), drafted, mask)
    plan = sampling_plan([row], [EOS])
    logits = random_logits(1, SIZE, seed)
    token = sample(logits, plan).token_ids[0]

    slack = 1e-5  # of float32 logits and a float32 sum of penalties
    scores = [
        oracle(logits[0], prompt + output, len(prompt), replace(params, top_p=top_p, min_p=min_p), banned)
        for top_p in {params.top_p, min(1 - 1e-12, params.top_p + slack), params.top_p - slack}
        for min_p in {params.min_p, params.min_p * (1 - slack), params.min_p * (1 + slack)}
    ]
    kept = [frozenset(torch.isfinite(some).nonzero().flatten().tolist()) for some in scores]
    if not kept[0]:
        assert token == FAILED_ROW
        return
    assert any(token in some for some in kept)
    if params.temperature == 0:
        assert float(scores[0][token]) >= float(scores[0].max()) - slack
        return
    if len(set(kept)) > 1:
        return  # rounding decides what is kept
    probability = torch.softmax(scores[0], 0)
    truncated = 0 < params.top_k < SIZE or params.top_p < 1
    order = sorted(kept[0], key=lambda t: (-float(scores[0][t]), t) if truncated else t)
    before = float(probability[order[: order.index(token)]].sum())
    uniform = draw_uniform(7, 0, len(prompt) + len(output))
    assert before - slack <= uniform <= before + float(probability[token]) + slack


@settings(max_examples=100)
@given(
    params(),
    st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
)
def test_a_row_after_drafts_is_the_row_after_those_tokens(
    params: SamplingParams, prompt: list[int], output: list[int], draft: list[int]
) -> None:
    ahead = sequence(prompt, output, params, draft)
    together = sampling_plan([Row(ahead, drafted) for drafted in range(len(draft) + 1)], [EOS])
    for drafted in range(len(draft) + 1):
        alone = sampling_plan([Row(sequence(prompt, output + draft[:drafted], params))], [EOS])
        assert row_values(together, drafted) == row_values(alone, 0)


@settings(max_examples=100)
@given(params(), st.data())
def test_rejected_drafts_and_steps_without_a_row_leave_no_trace(params: SamplingParams, data: st.DataObject) -> None:
    tokens = st.lists(st.integers(0, 5), max_size=4)
    living = sequence(data.draw(tokens.filter(bool)), [], params)
    for _ in range(data.draw(st.integers(1, 5))):
        living.draft = data.draw(tokens)
        if data.draw(st.booleans()):
            sampling_plan([Row(living, drafted) for drafted in range(len(living.draft) + 1)], [EOS])
        living.token_ids += data.draw(tokens)
    living.draft = []
    fresh = sequence(list(living.request.prompt_ids), living.output_ids, params)
    assert row_values(sampling_plan([Row(living)], [EOS]), 0) == row_values(sampling_plan([Row(fresh)], [EOS]), 0)


def test_rows_of_many_sequences_are_planned_as_each_alone() -> None:
    wishes: list[dict[str, Any]] = [
        {},
        {"repetition_penalty": 1.5},
        {"logit_bias": {3: 1.0, 1: -math.inf}},
        {"frequency_penalty": 0.5, "min_tokens": 9, "logprobs": 2},
        {"bad_word_ids": [[4, 5], [6]], "temperature": 0.0},
        {},
    ]
    masks = [None, packed([True] * 40), None, packed([False] * 40), None, None]
    rows = [
        Row(sequence([1, 2, 3], [4, 1, 4], SamplingParams(**wish)), mask=mask)
        for wish, mask in zip(wishes, masks, strict=True)
    ]
    together = sampling_plan(rows, [EOS])
    assert [row_values(together, i) for i in range(len(rows))] == [
        row_values(sampling_plan([row], [EOS]), 0) for row in rows
    ]
    for chosen in ([], [3], [5, 4, 1, 1, 3], [0, 5], list(range(6))):
        some = select_rows(together, np.array(chosen, np.int64))
        assert [row_values(some, i) for i in range(len(chosen))] == [row_values(together, i) for i in chosen]
        for name, item in SamplingPlan.__dataclass_fields__.items():
            assert getattr(some, name).dtype == np.dtype(item.metadata["dtype"]), name


def test_counts_are_over_the_output_and_the_prompt_stands_there_with_none() -> None:
    output, prompt_too = {"presence_penalty": 1.0}, {"presence_penalty": 1.0, "repetition_penalty": 1.1}
    for wish, expected in ((output, {5: 2, 6: 1}), (prompt_too, {4: 0, 5: 2, 6: 1}), ({}, {})):
        assert counts(sampling_plan([Row(sequence([4, 5], [5, 6, 5], SamplingParams(**wish)))])) == expected


def test_a_long_history_counts_right() -> None:
    random = np.random.default_rng(0)
    prompt, output = random.integers(0, 3000, 2000).tolist(), random.integers(0, 3000, 3000).tolist()
    living = sequence(prompt, [], SamplingParams(repetition_penalty=1.1))
    for start in range(0, 3000, 100):
        living.token_ids += output[start : start + 100]
        plan = sampling_plan([Row(living)])
    counter = Counter(output)
    assert counts(plan) == {token: counter[token] for token in {*prompt, *output}}


@pytest.mark.parametrize(
    ("history", "banned"),
    [([7], {9}), ([5], {6, 9}), ([4, 5], {6, 8, 9}), ([5, 5], {6, 9}), ([4, 5, 6], {9}), ([3, 4, 5, 3, 4], {1, 9})],
)
def test_a_bad_words_last_id_is_banned_where_the_others_come_before(history: list[int], banned: set[int]) -> None:
    words = [[9], [5, 6], [4, 5, 8], [3, 4, 5, 3, 4, 1]]
    for split in range(1, len(history) + 1):  # whether they stand in the prompt, the output or across both
        planned = sampling_plan([Row(sequence(history[:split], history[split:], SamplingParams(bad_word_ids=words)))])
        assert biases(planned) == dict.fromkeys(banned, -math.inf)


def test_a_ban_overrides_a_bias() -> None:
    wish = SamplingParams(logit_bias={9: 5.0, 6: 5.0, 2: 5.0, 1: 5.0}, bad_word_ids=[[9], [5, 6]], min_tokens=1)
    expected = {9: -math.inf, 6: -math.inf, EOS: -math.inf, 1: 5.0}
    assert biases(sampling_plan([Row(sequence([5], [], wish))], [EOS])) == expected


def test_ends_are_banned_until_min_tokens_have_been_generated() -> None:
    wish = SamplingParams(min_tokens=3, stop_token_ids=(8,))
    for generated in range(5):
        for drafted in range(generated + 1):
            output = [5] * generated
            row = Row(sequence([8, EOS], output[drafted:], wish, output[:drafted]), drafted)
            expected = dict.fromkeys((EOS, 8), -math.inf) if generated < 3 else {}
            assert biases(sampling_plan([row], [EOS])) == expected


@pytest.mark.parametrize("end", [EOS, 31, 63])
def test_min_tokens_gives_way_where_a_grammar_allows_nothing_but_the_end(end: int) -> None:
    wish = SamplingParams(min_tokens=3)
    ended = packed([token == end for token in range(70)])
    open_still = packed([token in (end, 64) for token in range(70)])
    for mask, expected in ((ended, {}), (open_still, {end: -math.inf}), (None, {end: -math.inf})):
        assert biases(sampling_plan([Row(sequence([1], [], wish), mask=mask)], [end])) == expected
    assert ended.tolist() == packed([token == end for token in range(70)]).tolist()


def test_score_and_embed_rows_want_nothing_but_prompt_logprobs() -> None:
    wish = SamplingParams(
        temperature=0.5,
        top_k=3,
        repetition_penalty=2.0,
        logit_bias={1: 5.0},
        min_tokens=4,
        logprobs=1,
        prompt_logprobs=7,
    )
    living = sequence([1, 2], [], wish)
    plan = sampling_plan([Row(living, kind=KIND_SCORE), Row(living, kind=KIND_EMBED), Row(living)], [EOS])
    assert plan.logprobs.tolist() == [7, -1, 1]
    assert plan.temperature.tolist() == [0, 0, 0.5]
    assert (biases(plan, 0), counts(plan, 0), biases(plan, 1), counts(plan, 1)) == ({}, {}, {}, {})
    assert biases(plan, 2) and counts(plan, 2)


def test_a_plan_of_no_rows_is_empty() -> None:
    plan = sampling_plan([])
    assert plan.bias_start.tolist() == plan.seen_start.tolist() == [0]
    assert plan.masks.size == plan.temperature.size == plan.seen_ids.size == 0


def test_every_array_has_the_type_it_is_sent_with() -> None:
    wish = SamplingParams(repetition_penalty=1.2, logit_bias={1: 2.0})
    for plan in (sampling_plan([]), sampling_plan([Row(sequence([1], [2], wish), mask=packed([True] * 40))])):
        for name, item in SamplingPlan.__dataclass_fields__.items():
            assert getattr(plan, name).dtype == np.dtype(item.metadata["dtype"]), name


def test_a_history_is_kept_only_where_one_is_asked() -> None:
    plain, asking = sequence([1], [], SamplingParams(top_k=3)), sequence([1], [], SamplingParams(min_tokens=1))
    sampling_plan([Row(plain), Row(asking)])
    assert plain.history is None and isinstance(asking.history, History)
