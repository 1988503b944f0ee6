"""The step plan: all that a worker is told about one step, in flat arrays.

T tokens of B sequences are computed together; R of the rows are looked at: a token is sampled there, one that is
known is scored, or the hidden state itself is wanted. Everything a kernel needs (where each token's keys and values
go, where each sequence's are) and all that sampling needs is in here, so that the same bytes make every
tensor-parallel rank do the same.

Speculation: a sequence's last `drafted` tokens are guesses that nobody has sampled yet. A row is sampled at the token
before them and at each of them; `deepseek.engine.speculation.policy` says which guesses those rows confirm.

Bytes: b"DSP1", header length (uint32, little-endian), a JSON header (the plain numbers; name, type and
shape of every array), then the arrays, little-endian, each at a multiple of 8 bytes. Nothing in it
can carry code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek.core.errors import LayoutError
from deepseek.engine.request import Sequence
from deepseek.engine.sampling.plan import (
    KIND_EMBED,
    KIND_SAMPLE,
    KIND_SCORE,
    Int32,
    Int64,
    Row,
    SamplingPlan,
    plan_array,
    sampling_plan,
)

__all__ = [
    "DRAFT_LATER",
    "DRAFT_NOW",
    "DRAFT_SKIPPED",
    "KIND_EMBED",
    "KIND_SAMPLE",
    "KIND_SCORE",
    "Part",
    "SamplingPlan",
    "StepPlan",
    "build_plan",
    "rows_of",
]

DRAFT_SKIPPED = 0
"""The draft layer does not see this step's tokens: its cache has holes there."""
DRAFT_LATER = 1
"""It will see them before the next step in which it is needed."""
DRAFT_NOW = 2
"""It sees them, and guesses what comes next."""

_MAGIC = b"DSP1"
_ALIGN = 8


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """One step. T tokens, B sequences, R rows to look at, M blocks in the longest table.

    Tokens of one sequence lie together and in order: those of sequence b are rows cu_q[b]..cu_q[b+1]. So do its rows.
    Arrays read from bytes are read-only views.

    step: its number. draft_layer: what becomes of the model's own draft layer, DRAFT_SKIPPED, DRAFT_LATER or DRAFT_NOW.
    """

    step: int
    draft_layer: int
    sampling: SamplingPlan
    token_ids: Int64 = plan_array("<i8", "T")
    positions: Int64 = plan_array("<i8", "T")
    slots: Int64 = plan_array("<i8", "T")
    """Where the token's keys and values go: block x block_size + offset."""
    seq_of_token: Int64 = plan_array("<i8", "T")
    adapter_of_token: Int32 = plan_array("<i4", "T")
    """Handle of the adapter to compute with; -1: none."""
    lengths: Int32 = plan_array("<i4", "B")
    """Tokens in the cache after this step's are written; what attention may read. The block of the last one is the
    sequence's own to its end."""
    cu_q: Int32 = plan_array("<i4", "B+1")
    drafted: Int32 = plan_array("<i4", "B")
    """How many of the sequence's tokens, at its end, are drafts."""
    propose: Int32 = plan_array("<i4", "B")
    """How many tokens the draft layer shall guess for the sequence, at most, where it samples one."""
    next_ids: Int64 = plan_array("<i8", "B")
    """The token after the last one computed, where it is known; -1: it is sampled now, or there is none."""
    block_tables: Int32 = plan_array("<i4", "B", "M")
    """Padded with 0."""
    rows: Int64 = plan_array("<i8", "R")
    """Index into T."""
    row_sequence: Int64 = plan_array("<i8", "R")
    """Index into B."""
    row_kind: Int32 = plan_array("<i4", "R")
    """KIND_SAMPLE, KIND_SCORE or KIND_EMBED."""
    row_target: Int64 = plan_array("<i8", "R")
    """The token to score; -1 elsewhere."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def to_bytes(self) -> bytes:
        arrays = [
            (name, np.ascontiguousarray(getattr(owner, attribute), dtype))
            for name, owner, attribute, dtype in _fields(self)
        ]
        described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays]
        content = {"step": self.step, "draft_layer": self.draft_layer, "arrays": described}
        header = json.dumps(content, separators=(",", ":")).encode()
        parts = [_MAGIC, struct.pack("<I", len(header)), header, b"\0" * _padding(len(_MAGIC) + 4 + len(header))]
        for _, array in arrays:
            raw = array.tobytes()
            parts += (raw, b"\0" * _padding(len(raw)))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> StepPlan:
        """The inverse of `to_bytes`. Raises LayoutError for anything that is not a whole, consistent plan."""
        numbers, arrays = _parse(data)
        sizes: dict[str, int] = {}
        top: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        for name, dtype, symbols in _SPEC:
            array = arrays.pop(name, None)
            if array is None or array.dtype != np.dtype(dtype) or array.ndim != len(symbols):
                found = None if array is None else f"{array.dtype.str} {list(array.shape)}"
                raise LayoutError(
                    "not a step plan's array", where=name, found=found, expected=f"{dtype} [{', '.join(symbols)}]"
                )
            for symbol, size in zip(symbols, array.shape, strict=True):
                base, _, more = symbol.partition("+")
                count = size - int(more or 0)
                if sizes.setdefault(base, count) != count:
                    raise LayoutError(
                        "arrays disagree", where=name, found=f"{base} = {count}", expected=f"{base} = {sizes[base]}"
                    )
            owner, _, attribute = name.rpartition(".")
            (sampling if owner else top)[attribute] = array
        if arrays:
            raise LayoutError("unknown array in a step plan", where=next(iter(arrays)))
        return cls(step=numbers[0], draft_layer=numbers[1], sampling=SamplingPlan(**sampling), **top)


class Part(NamedTuple):
    """One sequence's share of a step.

    num_tokens: computed from `sequence.computed` on, the drafts among them. drafted: how many of `sequence.draft`
    come last. masks: what a grammar allows at each of the sampled rows, int32 [drafted + 1, W]; None: anything.
    """

    sequence: Sequence
    num_tokens: int
    drafted: int = 0
    masks: Int32 | None = None

    @property
    def samples(self) -> bool:
        """Whether the step reaches the end of what is known, and a token is wanted there."""
        sequence = self.sequence
        return sequence.state.samples and sequence.computed + self.num_tokens - self.drafted == sequence.total


def rows_of(part: Part) -> list[tuple[Row, int]]:
    """What is looked at of one part: the rows, and for each its index among the part's tokens."""
    sequence, count, drafted, masks = part
    state = sequence.state
    rows: list[tuple[Row, int]] = []
    start, end = sequence.computed, sequence.computed + count
    if state.reads_prompt and sequence.choice == 0:
        kind, first, last = KIND_SCORE, max(start, sequence.reported), min(end, sequence.prompt_tokens - 1)
        if state.embeds:
            kind, last = KIND_EMBED, min(end, sequence.prompt_tokens)
            if state.request.pooling == "last":
                first = max(first, sequence.prompt_tokens - 1)
        rows += [(Row(sequence, 0, None, kind), position - start) for position in range(first, last)]
    if part.samples:
        at = count - 1 - drafted
        for index in range(drafted + 1):
            rows.append((Row(sequence, index, None if masks is None else masks[index]), at + index))
    return rows


def build_plan(
    step: int,
    parts: Seq[Part],
    block_size: int,
    *,
    end_ids: Collection[int] = (),
    draft_layer: int = DRAFT_SKIPPED,
    propose: Seq[int] | None = None,
) -> StepPlan:
    """Lay out `parts` in their order. end_ids: the model's end-of-sequence ids. The rest as in `StepPlan`."""
    # Lists first, one conversion each: on the few tokens of a decoding step numpy's calls would cost more than they do.
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    seq_of_token: list[int] = []
    adapters: list[int] = []
    lengths: list[int] = []
    cu_q = [0]
    next_ids: list[int] = []
    rows: list[int] = []
    row_sequence: list[int] = []
    row_kind: list[int] = []
    row_target: list[int] = []
    sampled: list[Row] = []
    block_tables = np.zeros((len(parts), max([len(part.sequence.blocks) for part in parts])), np.int32)
    for index, part in enumerate(parts):
        sequence, count, drafted, masks = part
        state, known, blocks = sequence.state, sequence.token_ids, sequence.blocks
        start = sequence.computed
        end, first = start + count, len(token_ids)
        block_tables[index, : len(blocks)] = blocks
        if count == 1:
            token_ids.append(known[start])
            positions.append(start)
            slots.append(blocks[start // block_size] * block_size + start % block_size)
            seq_of_token.append(index)
            adapters.append(state.adapter)
        else:
            token_ids += known[start:end]
            if drafted:
                token_ids += sequence.draft[:drafted]
            positions.extend(range(start, end))
            slots += _slots(blocks, start, end, block_size)
            seq_of_token += [index] * count
            adapters += [state.adapter] * count
        lengths.append(end)
        cu_q.append(first + count)
        next_ids.append(known[end] if end < len(known) else -1)
        if state.samples and not state.reads_prompt and not drafted:
            if end == len(known):
                rows.append(first + count - 1)
                row_sequence.append(index)
                row_kind.append(KIND_SAMPLE)
                row_target.append(-1)
                sampled.append(Row(sequence, 0, None if masks is None else masks[0]))
            continue
        for row, place in rows_of(part):
            rows.append(first + place)
            row_sequence.append(index)
            row_kind.append(row.kind)
            row_target.append(known[start + place + 1] if row.kind == KIND_SCORE else -1)
            sampled.append(row)
    return StepPlan(
        step=step,
        draft_layer=draft_layer,
        propose=np.zeros(len(parts), np.int32) if propose is None else np.array(propose, np.int32),
        sampling=sampling_plan(sampled, end_ids),
        token_ids=np.array(token_ids, np.int64),
        positions=np.array(positions, np.int64),
        slots=np.array(slots, np.int64),
        seq_of_token=np.array(seq_of_token, np.int64),
        adapter_of_token=np.array(adapters, np.int32),
        lengths=np.array(lengths, np.int32),
        cu_q=np.array(cu_q, np.int32),
        drafted=np.array([part.drafted for part in parts], np.int32),
        next_ids=np.array(next_ids, np.int64),
        block_tables=block_tables,
        rows=np.array(rows, np.int64),
        row_sequence=np.array(row_sequence, np.int64),
        row_kind=np.array(row_kind, np.int32),
        row_target=np.array(row_target, np.int64),
    )


def _slots(blocks: Seq[int], start: int, end: int, block_size: int) -> list[int]:
    """Where positions start..end go."""
    slots: list[int] = []
    for number in range(start // block_size, -(-end // block_size)):
        base = number * block_size
        shift = (blocks[number] - number) * block_size
        slots += range(max(start, base) + shift, min(end, base + block_size) + shift)
    return slots


def _spec() -> list[tuple[str, str, tuple[str, ...]]]:
    entries = []
    for prefix, cls in (("", StepPlan), ("sampling.", SamplingPlan)):
        for item in cls.__dataclass_fields__.values():
            if "dtype" in item.metadata:
                entries.append((prefix + item.name, item.metadata["dtype"], item.metadata["shape"]))
    return entries


_SPEC = _spec()


def _fields(plan: StepPlan) -> list[tuple[str, object, str, str]]:
    listed: list[tuple[str, object, str, str]] = []
    for name, dtype, _ in _SPEC:
        owner, _, attribute = name.rpartition(".")
        listed.append((name, plan.sampling if owner else plan, attribute, dtype))
    return listed


def _padding(size: int) -> int:
    return -size % _ALIGN


def _parse(data: bytes) -> tuple[tuple[int, int], dict[str, npt.NDArray[Any]]]:
    try:
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"it starts with {data[: len(_MAGIC)]!r}, not {_MAGIC!r}")
        (length,) = struct.unpack_from("<I", data, len(_MAGIC))
        offset = len(_MAGIC) + 4 + length
        header = json.loads(data[len(_MAGIC) + 4 : offset])
        offset += _padding(offset)
        arrays: dict[str, npt.NDArray[Any]] = {}
        known = {dtype for _, dtype, _ in _SPEC}
        for name, dtype, shape in header["arrays"]:
            if dtype not in known or any(not isinstance(size, int) or size < 0 for size in shape):
                raise ValueError(f"array {name!r} cannot be {dtype!r} {shape!r}")
            count = int(np.prod(shape, dtype=object))
            array = np.frombuffer(data, np.dtype(dtype), count, offset).reshape(shape)
            arrays[name] = array
            offset += array.nbytes + _padding(array.nbytes)
        if offset != len(data):
            raise ValueError(f"it has {len(data)} bytes, its header describes {offset}")
        return (int(header["step"]), int(header["draft_layer"])), arrays
    except (ValueError, KeyError, TypeError, struct.error, OverflowError) as error:
        raise LayoutError("not the bytes of a step plan", found=str(error)) from error
