"""The step plan: what it says about each token, and that its bytes carry exactly that and nothing else."""

from __future__ import annotations

import json
import struct
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepseek.core.engine import Request
from deepseek.core.errors import LayoutError
from deepseek.core.sampling import MAX_SEED, SamplingParams
from deepseek.engine.plan import KIND_EMBED, KIND_SAMPLE, KIND_SCORE, Part, SamplingPlan, StepPlan, build_plan
from deepseek.engine.request import RequestState, Sequence


def sequence(prompt: list[int], blocks: list[int], computed: int, **sampling: Any) -> Sequence:
    at_top = {name: sampling.pop(name) for name in ("task", "pooling") if name in sampling}
    request = Request("r", tuple(prompt), SamplingParams(**sampling), **at_top)
    state = RequestState(request, arrival=0.0, seed=7, order=0, ageing_s=1.0, cache_root=b"")
    result = state.sequences[0]
    result.blocks.extend(blocks)
    result.computed = computed
    return result


def arrays_of(plan: StepPlan) -> dict[str, np.ndarray]:
    listed = {item.name: getattr(plan, item.name) for item in fields(StepPlan) if "dtype" in item.metadata}
    return listed | {f"sampling.{item.name}": getattr(plan.sampling, item.name) for item in fields(SamplingPlan)}


def example() -> StepPlan:
    chunk = sequence([10, 11, 12, 13, 14, 15, 16], [3, 0, 5, 6], 1)
    decode = sequence([20, 21, 22], [2, 4], 2, temperature=0.5, top_p=0.75, top_k=9, logprobs=3)
    return build_plan(5, [Part(chunk, 4), Part(decode, 1)], block_size=2)


def test_every_token_is_laid_out_with_its_position_and_slot() -> None:
    plan = example()
    assert plan.step == 5
    assert plan.token_ids.tolist() == [11, 12, 13, 14, 22]
    assert plan.positions.tolist() == [1, 2, 3, 4, 2]
    assert plan.seq_of_token.tolist() == [0, 0, 0, 0, 1]
    assert plan.slots.tolist() == [3 * 2 + 1, 0 * 2, 0 * 2 + 1, 5 * 2, 4 * 2]
    assert plan.cu_q.tolist() == [0, 4, 5]
    assert plan.lengths.tolist() == [5, 3]
    assert plan.block_tables.tolist() == [[3, 0, 5, 6], [2, 4, 0, 0]]


def test_only_a_sequence_whose_last_token_is_computed_is_sampled() -> None:
    plan = example()
    assert plan.rows.tolist() == [4]
    assert plan.row_sequence.tolist() == [1]
    assert plan.row_kind.tolist() == [KIND_SAMPLE]


def test_a_sampled_row_carries_its_requests_parameters() -> None:
    sampling = example().sampling
    expected = {"temperature": 0.5, "top_p": 0.75, "top_k": 9, "seed": 7, "choice": 0, "logprobs": 3}
    expected["position"] = 3  # the token drawn will be token 3 of its sequence
    assert {name: getattr(sampling, name).tolist() for name in expected} == {n: [v] for n, v in expected.items()}


def test_a_tokens_adapter_is_that_of_its_sequence() -> None:
    plain, adapted = sequence([1, 2], [0], 0), sequence([3, 4, 5], [1], 0)
    adapted.state.adapter = 7
    plan = build_plan(0, [Part(plain, 2), Part(adapted, 3)], 4)
    assert plan.adapter_of_token.tolist() == [-1, -1, 7, 7, 7]


def test_the_token_after_a_chunk_is_told_where_it_is_known() -> None:
    plan = build_plan(0, [Part(sequence([1, 2, 3], [0], 0), 2), Part(sequence([4, 5], [1], 0), 2)], 4)
    assert plan.next_ids.tolist() == [3, -1]


def test_drafts_follow_the_last_token_and_each_gets_a_row_of_its_own_position() -> None:
    decode = sequence([20, 21, 22], [2, 4, 1], 2)
    decode.draft = [30, 31, 32]
    other = sequence([9], [0], 0)
    plan = build_plan(0, [Part(decode, 3, drafted=2), Part(other, 1)], block_size=2)
    assert plan.token_ids.tolist() == [22, 30, 31, 9]
    assert plan.positions.tolist() == [2, 3, 4, 0]
    assert plan.slots.tolist() == [8, 9, 2, 0]
    assert plan.lengths.tolist() == [5, 1]
    assert plan.drafted.tolist() == [2, 0]
    assert plan.rows.tolist() == [0, 1, 2, 3]
    assert plan.row_sequence.tolist() == [0, 0, 0, 1]
    assert plan.sampling.position.tolist() == [3, 4, 5, 1]


def test_masks_of_a_grammar_lie_at_the_rows_of_its_sequence() -> None:
    free, bound = sequence([1], [0], 0), sequence([2], [1], 0)
    bound.draft = [5]
    masks = np.array([[0b10], [0b100]], np.int32)
    plan = build_plan(0, [Part(free, 1), Part(bound, 2, 1, masks)], 4)
    assert plan.sampling.mask_of_row.tolist() == [-1, 0, 1]
    assert plan.sampling.masks.tolist() == masks.tolist()


@pytest.mark.parametrize(
    ("computed", "count", "reported", "rows", "targets"),
    [
        (0, 3, 0, [0, 1, 2], [11, 12, 13]),
        (2, 3, 2, [0, 1, 2], [13, 14, -1]),  # the last row samples
        (1, 4, 3, [2, 3], [14, -1]),  # what was reported before a preemption is not asked for again
    ],
)
def test_every_position_of_a_scored_prompt_has_the_next_token_as_its_target(
    computed: int, count: int, reported: int, rows: list[int], targets: list[int]
) -> None:
    scored = sequence([10, 11, 12, 13, 14], [0, 1], computed, prompt_logprobs=2)
    scored.reported = reported
    plan = build_plan(0, [Part(scored, count)], 4)
    assert plan.rows.tolist() == rows
    assert plan.row_target.tolist() == targets
    assert plan.row_kind.tolist() == [KIND_SAMPLE if target < 0 else KIND_SCORE for target in targets]
    assert plan.sampling.logprobs.tolist() == [-1 if target < 0 else 2 for target in targets]


@pytest.mark.parametrize(("pooling", "rows"), [("last", [[], [2]]), ("mean", [[0, 1], [0, 1, 2]])])
def test_an_embedding_reads_the_positions_that_its_pooling_needs_and_samples_nothing(
    pooling: Any, rows: list[list[int]]
) -> None:
    found = []
    for computed, count in ((0, 2), (2, 3)):
        embedded = sequence([10, 11, 12, 13, 14], [0, 1], computed, task="embed", pooling=pooling)
        plan = build_plan(0, [Part(embedded, count)], 4)
        found.append(plan.rows.tolist())
        assert set(plan.row_kind.tolist()) <= {KIND_EMBED}
    assert found == rows


def test_no_logprobs_and_none_beside_the_chosen_are_told_apart() -> None:
    plan = build_plan(0, [Part(sequence([1], [0], 0), 1), Part(sequence([1], [1], 0, logprobs=0), 1)], 4)
    assert plan.sampling.logprobs.tolist() == [-1, 0]


def test_the_largest_seed_survives() -> None:
    single = sequence([1], [0], 0)
    single.state.seed = MAX_SEED
    assert StepPlan.from_bytes(build_plan(0, [Part(single, 1)], 4).to_bytes()).sampling.seed.tolist() == [MAX_SEED]


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    sizes = {symbol: draw(st.integers(0, 5)) for symbol in "TBRMNSGW"}
    made: dict[str, np.ndarray] = {}
    for owner in (StepPlan, SamplingPlan):
        for item in fields(owner):
            if "dtype" in item.metadata:
                shape = [sizes[s[0]] + int(s[2:] or 0) for s in item.metadata["shape"]]
                made[item.name] = draw(hnp.arrays(np.dtype(item.metadata["dtype"]), shape))
    sampling = SamplingPlan(**{item.name: made.pop(item.name) for item in fields(SamplingPlan)})
    step, draft_layer = draw(st.integers(0, 2**53)), draw(st.integers(0, 2))
    return StepPlan(step=step, draft_layer=draft_layer, sampling=sampling, **made)


@given(plans())
def test_bytes_and_back_is_the_same_plan(plan: StepPlan) -> None:
    again = StepPlan.from_bytes(plan.to_bytes())
    assert (again.step, again.draft_layer) == (plan.step, plan.draft_layer)
    for name, array in arrays_of(plan).items():
        other = arrays_of(again)[name]
        assert other.dtype == array.dtype, name
        assert other.shape == array.shape, name
        assert other.tobytes() == array.tobytes(), name
    assert again.to_bytes() == plan.to_bytes()


@given(plans(), st.data())
def test_truncated_or_lengthened_bytes_are_refused(plan: StepPlan, data: st.DataObject) -> None:
    whole = plan.to_bytes()
    with pytest.raises(LayoutError):
        StepPlan.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(LayoutError):
        StepPlan.from_bytes(whole + b"\0" * 8)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_refused(junk: bytes) -> None:
    for data in (junk, b"DSP1" + junk, b"DSP1" + struct.pack("<I", len(junk)) + junk):
        with pytest.raises(LayoutError, match="not the bytes of a step plan"):
            StepPlan.from_bytes(data)


def edited(change: Any) -> bytes:
    """The example's bytes with `change` applied to the header."""
    whole = example().to_bytes()
    (length,) = struct.unpack_from("<I", whole, 4)
    start = 8 + length + -(8 + length) % 8
    header = json.loads(whole[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    return b"DSP1" + struct.pack("<I", len(raw)) + raw + b"\0" * (-(8 + len(raw)) % 8) + whole[start:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["arrays"][0].__setitem__(0, "tokens"), "token_ids: not a step plan's array"),
        (lambda header: header["arrays"][0].__setitem__(1, "|O"), "cannot be '|O'"),
        (lambda header: header["arrays"][0].__setitem__(1, "<f4"), "not the bytes of a step plan|not a step plan's"),
        (lambda header: header["arrays"][0].__setitem__(2, [2**62]), "not the bytes of a step plan"),
        (lambda header: header["arrays"][0].__setitem__(2, [-1]), "cannot be"),
        (lambda header: header.__setitem__("step", None), "not the bytes of a step plan"),
        (lambda header: header["arrays"].append(["more", "<i4", [0]]), "unknown array in a step plan"),
    ],
)
def test_a_forged_header_is_refused(change: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message.replace("|O", r"\|O")):
        StepPlan.from_bytes(edited(change))


def test_arrays_that_disagree_about_a_size_are_refused() -> None:
    plan = example()
    with pytest.raises(LayoutError, match=r"arrays disagree; found T = 4; expected T = 5"):
        StepPlan.from_bytes(replace(plan, slots=plan.slots[:-1]).to_bytes())
