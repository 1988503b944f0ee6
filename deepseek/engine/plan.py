"""The step plan: all that a worker is told about one step, in flat arrays.

T tokens of B sequences are computed together; R of the rows get their logits and a token each.
Everything a kernel needs (where each token's keys and values go, where each sequence's are) and all
that sampling needs is in here, so that the same bytes make every tensor-parallel rank do the same.

Bytes: b"DSP1", header length (uint32, little-endian), a JSON header (step number; name, type and
shape of every array), then the arrays, little-endian, each at a multiple of 8 bytes. Nothing in it
can carry code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek.core.errors import LayoutError
from deepseek.engine.request import Sequence

KIND_SAMPLE = 0
KIND_SCORE = 1

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

_MAGIC = b"DSP1"
_ALIGN = 8


def _array(dtype: str, *shape: str) -> Any:
    return field(metadata={"dtype": dtype, "shape": shape})


@dataclass(frozen=True, slots=True, eq=False)
class SamplingPlan:
    """How to draw one token for each sampled row.

    Noise comes from a counter-based generator keyed by (seed, choice, position, draw): `position` is the
    index in its sequence of the token to be drawn, whatever was batched, chunked, cached or preempted.
    """

    temperature: npt.NDArray[np.float32] = _array("<f4", "R")
    top_p: npt.NDArray[np.float32] = _array("<f4", "R")
    top_k: Int32 = _array("<i4", "R")
    seed: npt.NDArray[np.uint64] = _array("<u8", "R")
    choice: Int32 = _array("<i4", "R")
    position: Int64 = _array("<i8", "R")
    logprobs: Int32 = _array("<i4", "R")
    """Alternatives to report beside each token; -1: report nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """One step. T tokens, B sequences, R sampled rows, M blocks in the longest table.

    Tokens of one sequence lie together and in order: those of sequence b are rows cu_q[b]..cu_q[b+1].
    Arrays read from bytes are read-only views.
    """

    step: int
    sampling: SamplingPlan
    token_ids: Int64 = _array("<i8", "T")
    positions: Int64 = _array("<i8", "T")
    slots: Int64 = _array("<i8", "T")
    """Where the token's keys and values go: block x block_size + offset."""
    seq_of_token: Int64 = _array("<i8", "T")
    lengths: Int32 = _array("<i4", "B")
    """Tokens in the cache after this step's are written; what attention may read."""
    cu_q: Int32 = _array("<i4", "B+1")
    block_tables: Int32 = _array("<i4", "B", "M")
    """Padded with 0."""
    rows: Int64 = _array("<i8", "R")
    """Index into T."""
    row_sequence: Int64 = _array("<i8", "R")
    """Index into B."""
    row_kind: Int32 = _array("<i4", "R")
    """KIND_SAMPLE or KIND_SCORE."""

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
        header = json.dumps({"step": self.step, "arrays": described}, separators=(",", ":")).encode()
        parts = [_MAGIC, struct.pack("<I", len(header)), header, b"\0" * _padding(len(_MAGIC) + 4 + len(header))]
        for _, array in arrays:
            raw = array.tobytes()
            parts += (raw, b"\0" * _padding(len(raw)))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> StepPlan:
        """The inverse of `to_bytes`. Raises LayoutError for anything that is not a whole, consistent plan."""
        step, arrays = _parse(data)
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
        return cls(step=step, sampling=SamplingPlan(**sampling), **top)


def build_plan(step: int, scheduled: Seq[tuple[Sequence, int]], block_size: int) -> StepPlan:
    """Lay out `scheduled`: each sequence with how many of its tokens, from `computed` on, this step computes.

    A sequence whose last known token is computed gets a sampled row.
    """
    starts = np.array([sequence.computed for sequence, _ in scheduled], np.int64)
    counts = np.array([count for _, count in scheduled], np.int64)
    cu_q = np.zeros(len(scheduled) + 1, np.int64)
    np.cumsum(counts, out=cu_q[1:])

    block_tables = np.zeros((len(scheduled), max(len(sequence.blocks) for sequence, _ in scheduled)), np.int32)
    token_ids: list[int] = []
    sampled: list[int] = []
    for index, (sequence, count) in enumerate(scheduled):
        block_tables[index, : len(sequence.blocks)] = sequence.blocks
        end = sequence.computed + count
        token_ids += sequence.token_ids[sequence.computed : end]
        if end == len(sequence.token_ids):
            sampled.append(index)

    seq_of_token = np.repeat(np.arange(len(scheduled)), counts)
    positions = np.arange(len(token_ids)) + (starts - cu_q[:-1])[seq_of_token]
    slots = block_tables[seq_of_token, positions // block_size].astype(np.int64) * block_size + positions % block_size
    row_sequence = np.array(sampled, np.int64)
    return StepPlan(
        step=step,
        sampling=_sampling_plan([scheduled[index][0] for index in sampled]),
        token_ids=np.array(token_ids, np.int64),
        positions=positions,
        slots=slots,
        seq_of_token=seq_of_token,
        lengths=(starts + counts).astype(np.int32),
        cu_q=cu_q.astype(np.int32),
        block_tables=block_tables,
        rows=cu_q[row_sequence + 1] - 1,
        row_sequence=row_sequence,
        row_kind=np.full(len(sampled), KIND_SAMPLE, np.int32),
    )


def _sampling_plan(sequences: Seq[Sequence]) -> SamplingPlan:
    params = [sequence.request.sampling for sequence in sequences]
    return SamplingPlan(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_p=np.array([p.top_p for p in params], np.float32),
        top_k=np.array([min(p.top_k, 2**31 - 1) for p in params], np.int32),
        seed=np.array([sequence.state.seed for sequence in sequences], np.uint64),
        choice=np.array([sequence.choice for sequence in sequences], np.int32),
        position=np.array([sequence.total for sequence in sequences], np.int64),
        logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
    )


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


def _parse(data: bytes) -> tuple[int, dict[str, npt.NDArray[Any]]]:
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
        return int(header["step"]), arrays
    except (ValueError, KeyError, TypeError, struct.error, OverflowError) as error:
        raise LayoutError("not the bytes of a step plan", found=str(error)) from error
