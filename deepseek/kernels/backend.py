"""The two backends of the operations, and which one is in use.

`cpp` is the compiled library, `reference` plain torch in a row-exact form. `DEEPSEEK_KERNELS=cpp | reference | auto`
chooses (auto: cpp where it can be built), `DEEPSEEK_ISA` (portable, avx2, avx512, avx512vnni, amx or neon)
holds the library to an instruction set, and `DEEPSEEK_NUM_THREADS` sets the threads. The choice is made at the first
operation, so that importing costs nothing.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.kernels.packed import PackedExperts, PackedHeads, PackedWeight, StoredType
from deepseek.kernels.stack import LayerSpec, Routing, Stack, StackPools, StackStep


class Backend(Protocol):
    """What `ops.py` calls after its checks: shapes, dtypes and strides hold, index values do not have to yet."""

    name: str

    def advise_large_pages(self, memory: Tensor) -> None: ...
    def pack(self, weight: Tensor, stored: StoredType, scales: Tensor | None, lasting: bool = True) -> PackedWeight: ...
    def pack_integer(self, codes: Tensor, scales: Tensor, bits: int, lasting: bool = True) -> PackedWeight: ...
    def unpack_integer(self, w: PackedWeight) -> tuple[Tensor, Tensor]: ...
    def pack_heads(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedHeads: ...
    def pack_experts(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedExperts: ...
    def unpack(self, w: PackedWeight) -> Tensor: ...
    def gather_rows(self, w: PackedWeight, ids: Tensor) -> Tensor: ...
    def linear(self, x: Tensor, w: PackedWeight, bias: Tensor | None) -> Tensor: ...
    def head_linear(self, x: Tensor, w: PackedHeads, out: Tensor) -> None: ...
    def expert_ffn(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        gate: PackedExperts,
        up: PackedExperts,
        down: PackedExperts,
    ) -> Tensor: ...
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]: ...
    def silu_mul(self, gate_up: Tensor) -> Tensor: ...
    def rope(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, out: Tensor) -> None: ...
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
    ) -> Tensor: ...
    def write_kv(self, pool: Tensor, slots: Tensor, values: Tensor) -> None: ...
    def route(self, logits: Tensor, correction: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]: ...
    def compile_stack(self, layers: Sequence[LayerSpec], last_norm: Tensor, last_eps: float) -> Stack | None: ...
    def stack_pools(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> StackPools: ...
    def run_stack(self, stack: Stack, hidden: Tensor, step: StackStep) -> Tensor: ...
    def sigmoid(self, x: Tensor) -> Tensor: ...
    def softmax(self, x: Tensor) -> Tensor: ...
    def set_num_threads(self, threads: int) -> None: ...
    def num_threads(self) -> int: ...
    def available_isas(self) -> list[str]: ...
    def refused_isas(self) -> list[str]: ...
    def describe(self) -> dict[str, object]: ...


_override: ContextVar[Backend | None] = ContextVar("deepseek_kernels_backend", default=None)


def current() -> Backend:
    """The backend in use here: `use_backend`'s, else the process's."""
    return _override.get() or default_backend()


@contextmanager
def use_backend(backend: Backend) -> Iterator[Backend]:
    """Runs the body on `backend`. Weights must be packed and used under backends of the same layout."""
    token = _override.set(backend)
    try:
        yield backend
    finally:
        _override.reset(token)


@functools.cache
def default_backend() -> Backend:
    """The process's backend, chosen at first use from the environment."""
    wanted = os.environ.get("DEEPSEEK_KERNELS", "auto")
    if wanted not in ("auto", "cpp", "reference"):
        raise ConfigError(
            "no such kernel backend", where="DEEPSEEK_KERNELS", found=wanted, expected="auto, cpp or reference"
        )
    backend = _reference("DEEPSEEK_KERNELS=reference") if wanted == "reference" else _cpp(required=wanted == "cpp")
    threads = os.environ.get("DEEPSEEK_NUM_THREADS")
    if threads is not None and not (threads.isdigit() and 1 <= int(threads) <= 256):
        raise ConfigError("not a number of threads", where="DEEPSEEK_NUM_THREADS", found=threads, expected="1 to 256")
    backend.set_num_threads(int(threads) if threads else physical_cores())
    return backend


def _cpp(*, required: bool) -> Backend:
    from deepseek.kernels.cpu.backend import CppBackend
    from deepseek.kernels.cpu.build import build, find_library

    try:
        return CppBackend(find_library() or build(), os.environ.get("DEEPSEEK_ISA"))
    except ConfigError as error:
        if required or "DEEPSEEK_ISA" in os.environ:
            raise
        print(f"deepseek: using the slow reference kernels ({error})", file=sys.stderr, flush=True)
        return _reference(str(error))


def _reference(reason: str) -> Backend:
    from deepseek.kernels.fallback import ReferenceBackend

    return ReferenceBackend(reason)


def physical_cores() -> int:
    """Physical cores this process may use: its affinity, hyper-threads counted once, cut by the cgroup's quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add((topology.joinpath("physical_package_id").read_text(), topology.joinpath("core_id").read_text()))
        except OSError:
            cores.add((str(cpu), ""))  # no such file on this system: every processor counts
    count = max(1, len(cores))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count  # no quota to read
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))
