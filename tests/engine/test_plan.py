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
from deepseek.engine.plan import KIND_SAMPLE, SamplingPlan, StepPlan, build_plan
from deepseek.engine.request import RequestState, Sequence


def sequence(prompt: list[int], blocks: list[int], computed: int, **sampling: Any) -> Sequence:
    request = Request("r", tuple(prompt), SamplingParams(**sampling))
    state = RequestState(request, arrival=0.0, seed=7, order=0, ageing_s=1.0, cache_root=b"")
    result = state.sequences[0]
    result.blocks.extend(blocks)
    result.computed = computed
    return result


def arrays_of(plan: StepPlan) -> dict[str, np.ndarray]:
    listed = {item.name: getattr(plan, item.name) for item in fields(StepPlan) if item.name not in ("step", "sampling")}
    return listed | {f"sampling.{item.name}": getattr(plan.sampling, item.name) for item in fields(SamplingPlan)}


def example() -> StepPlan:
    chunk = sequence([10, 11, 12, 13, 14, 15, 16], [3, 0, 5, 6], 1)
    decode = sequence([20, 21, 22], [2, 4], 2, temperature=0.5, top_p=0.75, top_k=9, logprobs=3)
    return build_plan(5, [(chunk, 4), (decode, 1)], block_size=2)


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
    assert [getattr(sampling, item.name).tolist() for item in fields(SamplingPlan)] == [
        [0.5],
        [0.75],
        [9],
        [7],
        [0],
        [3],  # the token drawn will be token 3 of its sequence
        [3],
    ]


def test_no_logprobs_and_none_beside_the_chosen_are_told_apart() -> None:
    plan = build_plan(0, [(sequence([1], [0], 0), 1), (sequence([1], [1], 0, logprobs=0), 1)], 4)
    assert plan.sampling.logprobs.tolist() == [-1, 0]


def test_the_largest_seed_survives() -> None:
    single = sequence([1], [0], 0)
    single.state.seed = MAX_SEED
    assert StepPlan.from_bytes(build_plan(0, [(single, 1)], 4).to_bytes()).sampling.seed.tolist() == [MAX_SEED]


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    sizes = {symbol: draw(st.integers(0, 5)) for symbol in "TBRM"}
    made: dict[str, np.ndarray] = {}
    for owner in (StepPlan, SamplingPlan):
        for item in fields(owner):
            if "dtype" in item.metadata:
                shape = [sizes[s[0]] + int(s[2:] or 0) for s in item.metadata["shape"]]
                made[item.name] = draw(hnp.arrays(np.dtype(item.metadata["dtype"]), shape))
    sampling = SamplingPlan(**{item.name: made.pop(item.name) for item in fields(SamplingPlan)})
    return StepPlan(step=draw(st.integers(0, 2**53)), sampling=sampling, **made)


@given(plans())
def test_bytes_and_back_is_the_same_plan(plan: StepPlan) -> None:
    again = StepPlan.from_bytes(plan.to_bytes())
    assert again.step == plan.step
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
