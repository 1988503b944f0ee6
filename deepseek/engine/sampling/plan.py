"""What a step plan says about drawing tokens: the numbers of every row, in flat arrays.

A row is one place whose next token is wanted: the last token of a sequence, and after it, where tokens were
guessed ahead (speculation), each of those drafts. What a row needs besides its logits is all in here, so a row's
token depends on nothing else: not on its neighbours, and not on drafts that come after it.

Ragged arrays: those of row r are `ids[start[r]:start[r + 1]]`.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek.core.sampling import SamplingParams
from deepseek.engine.request import Sequence
from deepseek.engine.sampling.history import History

KIND_SAMPLE = 0
KIND_SCORE = 1
KIND_EMBED = 2

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


def plan_array(dtype: str, *shape: str) -> Any:
    """A field of a plan: its element type in bytes' order, and its shape in symbols that a plan's arrays share."""
    return field(metadata={"dtype": dtype, "shape": shape})


class Row(NamedTuple):
    """One row of a step.

    drafted: how many of `sequence.draft` come before the token this row draws.
    mask: int32 [ceil(V/32)], bit i % 32 of word i // 32 set where the grammar allows token i; None allows all.
    kind: a score row reports `prompt_logprobs` alternatives instead of `logprobs`.
    """

    sequence: Sequence
    drafted: int = 0
    mask: Int32 | None = None
    kind: int = KIND_SAMPLE


@dataclass(frozen=True, slots=True, eq=False)
class SamplingPlan:
    """How to draw (or score) one token for each of R rows.

    Noise comes from a counter-based generator keyed by (seed, choice, position, draw): `position` is the
    index in its sequence of the token to be drawn, whatever was batched, chunked, cached or preempted.
    """

    temperature: Float32 = plan_array("<f4", "R")
    top_p: Float32 = plan_array("<f4", "R")
    top_k: Int32 = plan_array("<i4", "R")
    min_p: Float32 = plan_array("<f4", "R")
    frequency: Float32 = plan_array("<f4", "R")
    presence: Float32 = plan_array("<f4", "R")
    repetition: Float32 = plan_array("<f4", "R")
    """1: off."""
    seed: npt.NDArray[np.uint64] = plan_array("<u8", "R")
    choice: Int32 = plan_array("<i4", "R")
    position: Int64 = plan_array("<i8", "R")
    logprobs: Int32 = plan_array("<i4", "R")
    """Alternatives to report beside each token; -1: report nothing."""
    bias_start: Int32 = plan_array("<i4", "R+1")
    bias_ids: Int32 = plan_array("<i4", "N")
    """Tokens whose logit is moved: logit bias, and bans."""
    bias_values: Float32 = plan_array("<f4", "N")
    """Added to the logit; -inf bans the token."""
    seen_start: Int32 = plan_array("<i4", "R+1")
    seen_ids: Int32 = plan_array("<i4", "S")
    """Different tokens of prompt and output so far; filled only for rows with a penalty."""
    seen_counts: Int32 = plan_array("<i4", "S")
    """How often each stands in the output; 0: in the prompt alone."""
    mask_of_row: Int32 = plan_array("<i4", "R")
    """Index into G; -1: everything is allowed."""
    masks: Int32 = plan_array("<i4", "G", "W")
    """Packed allowed-bits, as in `Row.mask`."""


def sampling_plan(rows: Seq[Row], end_ids: Collection[int] = ()) -> SamplingPlan:
    """The plan of `rows` in their order. end_ids: the end-of-sequence ids, banned below a row's `min_tokens`."""
    biases: list[tuple[Int32, Float32]] = []
    seen: list[tuple[Int32, Int32]] = []
    masks: list[Int32] = []
    mask_of_row: list[int] = []
    params: list[SamplingParams] = []
    for sequence, drafted, mask, kind in rows:
        sampling = sequence.request.sampling if kind == KIND_SAMPLE else _PLAIN
        bias, counts = _NO_BIAS, _NOTHING_SEEN
        if History.is_needed(sampling):
            history = sequence.history
            if history is None:
                history = sequence.history = History(sampling, sequence.request.prompt_ids)
            draft = sequence.draft[:drafted]
            bias = history.bias(sequence.token_ids, draft, end_ids, mask)
            if sampling.has_penalties:
                counts = history.seen(sequence.token_ids, draft)
        params.append(sampling)
        biases.append(bias)
        seen.append(counts)
        mask_of_row.append(-1 if mask is None else len(masks))
        if mask is not None:
            masks.append(mask)
    bias_start, bias_ids, bias_values = _ragged(biases, _NO_BIAS)
    seen_start, seen_ids, seen_counts = _ragged(seen, _NOTHING_SEEN)
    return SamplingPlan(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_p=np.array([p.top_p for p in params], np.float32),
        top_k=np.array([min(p.top_k, 2**31 - 1) for p in params], np.int32),
        min_p=np.array([p.min_p for p in params], np.float32),
        frequency=np.array([p.frequency_penalty for p in params], np.float32),
        presence=np.array([p.presence_penalty for p in params], np.float32),
        repetition=np.array([p.repetition_penalty for p in params], np.float32),
        seed=np.array([row.sequence.state.seed for row in rows], np.uint64),
        choice=np.array([row.sequence.choice for row in rows], np.int32),
        position=np.array([row.sequence.total + row.drafted for row in rows], np.int64),
        logprobs=np.array([_alternatives(row) for row in rows], np.int32),
        bias_start=bias_start,
        bias_ids=bias_ids,
        bias_values=bias_values,
        seen_start=seen_start,
        seen_ids=seen_ids,
        seen_counts=seen_counts,
        mask_of_row=np.array(mask_of_row, np.int32),
        masks=np.stack(masks) if masks else np.zeros((0, 0), np.int32),
    )


def select_rows(plan: SamplingPlan, rows: Int64) -> SamplingPlan:
    """The plan of these rows, in this order; a row may come more than once. `masks` stays whole."""
    columns = {
        name: getattr(plan, name)[rows] if item.metadata["shape"] == ("R",) else getattr(plan, name)
        for name, item in SamplingPlan.__dataclass_fields__.items()
    }
    columns["bias_start"], entries = _entries(plan.bias_start, rows)
    columns["bias_ids"], columns["bias_values"] = plan.bias_ids[entries], plan.bias_values[entries]
    columns["seen_start"], entries = _entries(plan.seen_start, rows)
    columns["seen_ids"], columns["seen_counts"] = plan.seen_ids[entries], plan.seen_counts[entries]
    return SamplingPlan(**columns)


_PLAIN = SamplingParams(temperature=0.0)
_NO_IDS: Int32 = np.zeros(0, np.int32)
_NO_VALUES: Float32 = np.zeros(0, np.float32)
_NO_BIAS = (_NO_IDS, _NO_VALUES)
_NOTHING_SEEN = (_NO_IDS, _NO_IDS)


def _alternatives(row: Row) -> int:
    sampling = row.sequence.request.sampling
    wanted = sampling.prompt_logprobs if row.kind == KIND_SCORE else sampling.logprobs
    return -1 if wanted is None or row.kind == KIND_EMBED else wanted


def _ragged(parts: Seq[tuple[Int32, Any]], nothing: tuple[Int32, Any]) -> tuple[Int32, Int32, Any]:
    """Pairs of arrays laid end to end, with the starts of each. Most steps have nothing to lay."""
    starts = np.zeros(len(parts) + 1, np.int32)
    if all(part is nothing for part in parts):
        return starts, *nothing
    np.cumsum([len(ids) for ids, _ in parts], out=starts[1:])
    return starts, np.concatenate([ids for ids, _ in parts]), np.concatenate([values for _, values in parts])


def _entries(starts: Int32, rows: Int64) -> tuple[Int32, Int64]:
    """Of a ragged array: the starts of these rows when laid end to end, and which entries are theirs."""
    lengths = starts[rows + 1] - starts[rows]
    selected = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=selected[1:])
    within = np.arange(int(selected[-1])) - np.repeat(selected[:-1], lengths)
    return selected, np.repeat(starts[rows], lengths) + within
