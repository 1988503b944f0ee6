"""Calls the compiled library: addresses and sizes in, a fresh tensor out. ctypes releases the interpreter lock
meanwhile."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek.core.errors import ConfigError, LayoutError
from deepseek.kernels.cpu import stack
from deepseek.kernels.cpu.room import Room
from deepseek.kernels.packed import (
    INTEGER_BITS,
    PANEL,
    PackedExperts,
    PackedHeads,
    PackedWeight,
    StoredType,
    integer_block,
)
from deepseek.kernels.stack import LayerSpec, Routing, Stack, StackPools, StackStep

ABI_VERSION = 3
ISAS = ("amx", "avx512vnni", "avx512", "avx2", "neon", "portable")  # best first

_TYPE_CODES: dict[StoredType, int] = {"f32": 0, "bf16": 1, "f16": 2, "fp8_e4m3": 3, "int8": 4, "int4": 5}
_OUT_OF_MEMORY = -1
_ISA_REFUSED = 2

_I, _P, _F, _D = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float, ctypes.c_double


class _Weight(ctypes.Structure):
    _fields_ = (("data", _P), ("scales", _P), ("n", _I), ("k", _I), ("dtype", _I))


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ds_abi_version": (_I, ()),
    "ds_set_isa": (_I, (ctypes.c_char_p,)),
    "ds_check_isa": (_I, (ctypes.c_char_p,)),
    "ds_isa": (ctypes.c_char_p, ()),
    "ds_set_threads": (None, (_I,)),
    "ds_threads": (_I, ()),
    "ds_advise_huge": (None, (_P, _I)),
    "ds_pack": (_I, (_P, _I, _P, _I, _I, _I)),
    "ds_unpack": (None, (_P, _P, _I, _I, _I)),
    "ds_panel_bytes": (_I, (_I, _I)),
    "ds_pack_integer": (None, (_P, _P, _P, _I, _I, _I)),
    "ds_unpack_integer": (None, (_P, _P, _P)),
    "ds_gather_rows": (_I, (_P, _P, _I, _P)),
    "ds_linear": (_I, (_P, _I, _I, _P, _P, _P)),
    "ds_head_linear": (_I, (_P, _I, _I, _I, _I, _P, _P, _I, _I)),
    "ds_expert_ffn": (_I, (_P, _I, _I, _I, _P, _P, _I, _P, _P, _P, _P)),
    "ds_rms_norm": (None, (_P, _I, _P, _I, _P, _F, _I, _I, _P, _P)),
    "ds_silu_mul": (None, (_P, _I, _I, _I, _P)),
    "ds_sigmoid": (None, (_P, _I, _P)),
    "ds_softmax": (None, (_P, _I, _I, _I, _P)),
    "ds_rope": (_I, (_P, *(_I,) * 5, *(_P,) * 3, _I, _I, _P, _I, _I)),
    "ds_attention": (_I, (*(_P,) * 3, *(_I,) * 12, _P, _P, *(_I,) * 3, _P, _F, _P)),
    "ds_layer_bytes": (_I, ()),
    "ds_layers": (_I, (_P, _I, _P, _P, _D, _P, _I, _I, *(_P,) * 3, _I, _I, _P, _P, *(_I,) * 3, _P, _P)),
    "ds_route": (None, (_P, *(_I,) * 8, _D, _D, *(_P,) * 3)),
    "ds_write_kv": (_I, (_P, _I, _I, _I, _P, _I, _P, _I, _I, _I, _I)),
}


class CppBackend:
    """The compiled kernels at `library`, held to `isa` or on the best one this processor has.

    The instruction set belongs to the loaded library, so the last backend made for a library sets it for all of them.
    Raises ConfigError when the library cannot be loaded or the processor lacks `isa`.
    """

    name = "cpp"

    def __init__(self, library: Path, isa: str | None = None) -> None:
        self.library = library
        try:
            lib = ctypes.CDLL(str(library))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(lib, name)
                function.restype = result
                function.argtypes = arguments
        except (OSError, AttributeError) as error:
            raise ConfigError(
                "the CPU kernel library cannot be loaded",
                where=library,
                found=error,
                fix="build it again: python -m deepseek.kernels.cpu.build --force",
            ) from error
        if lib.ds_abi_version() != ABI_VERSION or lib.ds_layer_bytes() != ctypes.sizeof(stack.Layer):
            raise ConfigError(
                "the CPU kernel library is of another version",
                where=library,
                found=lib.ds_abi_version(),
                expected=ABI_VERSION,
                fix="build it again: python -m deepseek.kernels.cpu.build --force",
            )
        self._lib: Any = lib
        self._room = Room(self.advise_large_pages)
        self.set_isa(isa)

    def set_isa(self, isa: str | None) -> str:
        """Holds the library to `isa`, or (None) chooses the best this processor has; returns it."""
        for candidate in ISAS if isa is None else (isa,):
            if self._lib.ds_set_isa(candidate.encode()) == 0:
                return candidate
        raise ConfigError(
            "this processor or build does not have the instruction set asked for",
            where="DEEPSEEK_ISA",
            found=isa,
            expected=" or ".join(self.available_isas()),
        )

    def available_isas(self) -> list[str]:
        """The instruction sets that work here, best first."""
        return [name for name in ISAS if self._lib.ds_check_isa(name.encode()) == 0]

    def refused_isas(self) -> list[str]:
        """Instruction sets that this processor has but that computed other bits than they must: they are not used."""
        return [name for name in ISAS if self._lib.ds_check_isa(name.encode()) == _ISA_REFUSED]

    def advise_large_pages(self, memory: Tensor) -> None:
        self._lib.ds_advise_huge(memory.data_ptr(), memory.nbytes)

    def pack(self, weight: Tensor, stored: StoredType, scales: Tensor | None, lasting: bool = True) -> PackedWeight:
        weight = weight.detach()
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        n, k = weight.shape
        data = self._memory(-(-n // PANEL) * k * PANEL, weight.dtype, lasting)
        code = _TYPE_CODES[stored]
        bad = self._lib.ds_pack(weight.data_ptr(), weight.stride(0), data.data_ptr(), n, k, code)
        if bad:
            place = [(bad - 1) // k, (bad - 1) % k]
            raise LayoutError(
                "an FP8 weight has a NaN", where=place, expected="finite values", fix="mend the checkpoint"
            )
        kept = None if scales is None else scales.detach().contiguous().clone()
        descriptor = _Weight(data.data_ptr(), 0 if kept is None else kept.data_ptr(), n, k, code)
        return PackedWeight(n, k, stored, data, kept, "panels", descriptor, ctypes.addressof(descriptor))

    def pack_integer(self, codes: Tensor, scales: Tensor, bits: int, lasting: bool = True) -> PackedWeight:
        n, k = codes.shape
        codes, scales = codes.contiguous(), scales.contiguous()
        data = self._memory(-(-n // PANEL) * self._lib.ds_panel_bytes(bits, k), torch.uint8, lasting)
        self._lib.ds_pack_integer(codes.data_ptr(), scales.data_ptr(), data.data_ptr(), n, k, bits)
        stored: StoredType = "int8" if bits == 8 else "int4"
        descriptor = _Weight(data.data_ptr(), 0, n, k, _TYPE_CODES[stored])
        return PackedWeight(n, k, stored, data, None, "panels", descriptor, ctypes.addressof(descriptor))

    def _memory(self, count: int, dtype: torch.dtype, lasting: bool) -> Tensor:
        return self._room.take(count, dtype) if lasting else torch.empty(count, dtype=dtype)

    def unpack_integer(self, w: PackedWeight) -> tuple[Tensor, Tensor]:
        codes = torch.empty((w.n, w.k), dtype=torch.int8)
        scales = torch.empty((w.n, -(-w.k // integer_block(w.dtype))), dtype=torch.bfloat16)
        self._lib.ds_unpack_integer(_address(w), codes.data_ptr(), scales.data_ptr())
        return codes, scales

    def pack_heads(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedHeads:
        array = _descriptors(weights)
        return PackedHeads(n, k, tuple(weights), array, ctypes.addressof(array))

    def pack_experts(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedExperts:
        array = _descriptors(weights)
        return PackedExperts(n, k, tuple(weights), array, ctypes.addressof(array))

    def unpack(self, w: PackedWeight) -> Tensor:
        rows = w.data.new_empty((w.n, w.k))
        _address(w)
        self._lib.ds_unpack(rows.data_ptr(), w.data.data_ptr(), w.n, w.k, _TYPE_CODES[w.dtype])
        return rows

    def gather_rows(self, w: PackedWeight, ids: Tensor) -> Tensor:
        dtype = torch.float32 if w.dtype in INTEGER_BITS else w.data.dtype
        rows = torch.empty((ids.shape[0], w.k), dtype=dtype)
        bad = self._lib.ds_gather_rows(_address(w), ids.data_ptr(), ids.shape[0], rows.data_ptr())
        if bad:
            raise _index_error(bad, "ids", ids, f"0 to {w.n - 1}")
        return rows

    def linear(self, x: Tensor, w: PackedWeight, bias: Tensor | None) -> Tensor:
        y = x.new_empty(x.shape[0], w.n)
        bias_ptr = 0 if bias is None else bias.data_ptr()
        if self._lib.ds_linear(x.data_ptr(), x.stride(0), x.shape[0], _address(w), bias_ptr, y.data_ptr()):
            raise MemoryError("no scratch memory for a linear layer")
        return y

    def head_linear(self, x: Tensor, w: PackedHeads, out: Tensor) -> None:
        tokens, heads, _ = x.shape
        strides = x.stride()
        out_strides = out.stride()
        if self._lib.ds_head_linear(
            x.data_ptr(),
            *(strides[0], strides[1], tokens, heads, _address(w)),
            *(out.data_ptr(), out_strides[0], out_strides[1]),
        ):
            raise MemoryError("no scratch memory for a linear layer")

    def expert_ffn(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        gate: PackedExperts,
        up: PackedExperts,
        down: PackedExperts,
    ) -> Tensor:
        y = x.new_empty(*x.shape)
        tokens, topk = topk_ids.shape
        experts = len(gate.weights)
        bad = self._lib.ds_expert_ffn(
            *(x.data_ptr(), x.stride(0), tokens, topk, topk_ids.data_ptr(), topk_weights.data_ptr(), experts),
            *(_address(gate), _address(up), _address(down), y.data_ptr()),
        )
        if bad == _OUT_OF_MEMORY:
            raise MemoryError("no scratch memory for the experts")
        if bad:
            raise _index_error(bad, "topk_ids", topk_ids, f"0 to {experts - 1}")
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        tokens, dim = x.shape
        y = x.new_empty(tokens, dim)
        self._lib.ds_rms_norm(x.data_ptr(), x.stride(0), 0, 0, weight.data_ptr(), eps, tokens, dim, y.data_ptr(), 0)
        return y

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        tokens, dim = x.shape
        y, total = x.new_empty(tokens, dim), x.new_empty(tokens, dim)
        self._lib.ds_rms_norm(
            *(x.data_ptr(), x.stride(0), residual.data_ptr(), residual.stride(0)),
            *(weight.data_ptr(), eps, tokens, dim, y.data_ptr(), total.data_ptr()),
        )
        return y, total

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        tokens, width = gate_up.shape
        y = gate_up.new_empty(tokens, width // 2)
        self._lib.ds_silu_mul(gate_up.data_ptr(), gate_up.stride(0), tokens, width // 2, y.data_ptr())
        return y

    def rope(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, out: Tensor) -> None:
        tokens, heads, dim = x.shape
        x_strides, y_strides = x.stride(), out.stride()
        bad = self._lib.ds_rope(
            *(x.data_ptr(), tokens, heads, dim, x_strides[0], x_strides[1], positions.data_ptr()),
            *(cos.data_ptr(), sin.data_ptr(), cos.shape[0], interleaved),
            *(out.data_ptr(), y_strides[0], y_strides[1]),
        )
        if bad:
            raise _index_error(bad, "positions", positions, f"0 to {cos.shape[0] - 1} (the rows of cos and sin)")

    def attention(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        positions: Tensor,
        block_tables: Tensor,
        seq_of_token: Tensor,
        block_size: int,
        scale: float,
    ) -> Tensor:
        tokens, q_heads, dk = q.shape
        slots, kv_heads, dv = v_pool.shape
        out = q.new_empty(tokens, q_heads, dv)
        q_strides, k_strides, v_strides = q.stride(), k_pool.stride(), v_pool.stride()
        sequences, max_blocks = block_tables.shape
        bad = self._lib.ds_attention(
            *(q.data_ptr(), k_pool.data_ptr(), v_pool.data_ptr(), tokens, q_heads, kv_heads, dk, dv),
            *(q_strides[0], q_strides[1], k_strides[0], k_strides[1], v_strides[0], v_strides[1], slots),
            *(positions.data_ptr(), block_tables.data_ptr(), sequences, max_blocks, block_size),
            *(seq_of_token.data_ptr(), scale, out.data_ptr()),
        )
        if bad:
            t = bad - 1
            raise LayoutError(
                f"token {t}'s position, sequence or block table points outside",
                where="attention",
                found=f"position {int(positions[t])} of sequence {int(seq_of_token[t])}",
                expected=f"sequence < {sequences}, position < {max_blocks * block_size}, slots up to it < {slots}",
            )
        return out

    def write_kv(self, pool: Tensor, slots: Tensor, values: Tensor) -> None:
        _, heads, dim = pool.shape
        p, v = pool.stride(), values.stride()
        bad = self._lib.ds_write_kv(
            *(pool.data_ptr(), p[0], p[1], pool.shape[0], slots.data_ptr(), slots.shape[0]),
            *(values.data_ptr(), v[0], v[1], heads, dim),
        )
        if bad:
            raise _index_error(bad, "slots", slots, f"below {pool.shape[0]}")

    def route(self, logits: Tensor, correction: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
        tokens, experts = logits.shape
        scores = logits.clone()
        ids = torch.empty((tokens, routing.topk), dtype=torch.int64)
        weights = logits.new_empty(tokens, routing.topk)
        self._lib.ds_route(
            *(scores.data_ptr(), tokens, experts, routing.topk, routing.groups, routing.top_groups, routing.group_best),
            *(routing.sigmoid, routing.normalise, routing.scale, routing.closed),
            *(None if correction is None else correction.data_ptr(), ids.data_ptr(), weights.data_ptr()),
        )
        return ids, weights

    def compile_stack(self, layers: Sequence[LayerSpec], last_norm: Tensor, last_eps: float) -> Stack | None:
        array = (stack.Layer * len(layers))(*(stack.fill(layer) for layer in layers))
        return Stack(tuple(layers), last_norm, last_eps, array)

    def stack_pools(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> StackPools:
        return StackPools(tuple(pairs), stack.fill_pools(pairs))

    def run_stack(self, stack_: Stack, hidden: Tensor, step: StackStep) -> Tensor:
        out = torch.empty_like(hidden)
        if not hidden.shape[0]:
            return out
        tables = step.block_tables
        bad = self._lib.ds_layers(
            *(ctypes.addressof(stack_.descriptor), len(stack_.layers), ctypes.addressof(step.pools.descriptor)),
            *(stack_.last_norm.data_ptr(), stack_.last_eps, hidden.data_ptr(), *hidden.shape),
            *(step.positions.data_ptr(), step.cos.data_ptr(), step.sin.data_ptr(), step.cos.shape[0], step.interleaved),
            *(step.slots.data_ptr(), tables.data_ptr(), *tables.shape, step.block_size, step.seq_of_token.data_ptr()),
            out.data_ptr(),
        )
        if bad == _OUT_OF_MEMORY:
            raise MemoryError("no scratch memory for a step of the decoder stack")
        if bad:
            t, slots = bad - 1, step.pools.slots
            raise LayoutError(
                f"token {t}'s position, slot, sequence or block table points outside",
                where="run_stack",
                found=f"position {int(step.positions[t])}, slot {int(step.slots[t])}, "
                f"sequence {int(step.seq_of_token[t])}",
                expected=f"sequence < {tables.shape[0]}, position < {min(step.cos.shape[0], tables.shape[1] * step.block_size)}, "
                f"slots up to it < {slots}",
            )
        return out

    def sigmoid(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape)
        self._lib.ds_sigmoid(x.data_ptr(), x.numel(), y.data_ptr())
        return y

    def softmax(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape)
        self._lib.ds_softmax(x.data_ptr(), x.stride(0), x.shape[0], x.shape[1], y.data_ptr())
        return y

    def set_num_threads(self, threads: int) -> None:
        self._lib.ds_set_threads(threads)

    def num_threads(self) -> int:
        return int(self._lib.ds_threads())

    def describe(self) -> dict[str, object]:
        return {
            "backend": self.name,
            "isa": self._lib.ds_isa().decode(),
            "threads": self.num_threads(),
            "library": str(self.library),
            "build": self.library.stem.removeprefix("kernels-"),
        }


def _descriptors(weights: Sequence[PackedWeight]) -> Any:
    array = (_Weight * len(weights))()
    for i, weight in enumerate(weights):
        _address(weight)
        array[i] = weight.descriptor
    return array


def _address(w: PackedWeight | PackedHeads | PackedExperts) -> int:
    if not w.address:
        raise LayoutError("this weight was packed for another backend", expected="panels", fix="pack it again")
    return w.address


def _index_error(status: int, what: str, index: Tensor, expected: str) -> LayoutError:
    flat = index.reshape(-1)
    return LayoutError(f"{what} out of range at element {status - 1}", found=int(flat[status - 1]), expected=expected)
