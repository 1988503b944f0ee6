"""The arithmetic that must be fast, and exact: a row's result is the same alone, in any batch, on any number of
threads.

`reference.py` says in plain torch what each operation means; `ops.py` checks and dispatches; `cpu/` computes in C++
on AVX-512, AVX2 or any processor; `fallback.py` computes where there is no compiler. `deepseek.kernels.linear` and
the rest run on the backend that `backend.py` chooses at first use.
"""

from deepseek.kernels.backend import Backend, use_backend
from deepseek.kernels.ops import (
    add_rms_norm,
    attention,
    describe,
    expert_ffn,
    gather_rows,
    head_linear,
    linear,
    num_threads,
    pack_experts,
    pack_heads,
    pack_pieces,
    pack_weight,
    rms_norm,
    rope,
    set_num_threads,
    sigmoid,
    silu_mul,
    softmax,
    unpack_weight,
    write_kv,
)
from deepseek.kernels.packed import PackedExperts, PackedHeads, PackedWeight

__all__ = [
    "Backend",
    "PackedExperts",
    "PackedHeads",
    "PackedWeight",
    "add_rms_norm",
    "attention",
    "describe",
    "expert_ffn",
    "gather_rows",
    "head_linear",
    "linear",
    "num_threads",
    "pack_experts",
    "pack_heads",
    "pack_pieces",
    "pack_weight",
    "rms_norm",
    "rope",
    "set_num_threads",
    "sigmoid",
    "silu_mul",
    "softmax",
    "unpack_weight",
    "use_backend",
    "write_kv",
]
