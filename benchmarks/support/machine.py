"""The machine a benchmark ran on, and the limits no program on it can pass: how fast memory is read, and how fast float32
and 8-bit integers are multiplied.

Limits are measured, not looked up, with the library's own fastest operations on all cores, and the best run counts:
a limit is what the machine can do, not what it does on average. Reads are measured over as many bytes as the model has,
because a model that fits into the last-level cache is not bound by DRAM.
"""

from __future__ import annotations

import os
import platform
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepseek import kernels
from deepseek.kernels.backend import physical_cores

QUIET_LOAD = 0.3
"""Load average per core above which a run calls the machine busy."""

_ISA_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")
_MAX_READ_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Limits:
    """read_gb_s: streaming read over `bytes_read`; multiply_gflop_s: a large float32 matrix product; int8_gop_s: one of
    int8 weights and activations quantised on the way (0: not measured). All cores."""

    read_gb_s: float
    multiply_gflop_s: float
    bytes_read: int
    int8_gop_s: float = 0.0

    def tokens_per_s(self, bytes_per_step: int, flop_per_token: int, streams: int) -> float:
        """The roofline: a step reads its weights once for all streams and multiplies once for each."""
        return streams / self.seconds(bytes_per_step, streams * flop_per_token)

    def seconds(self, nbytes: float, operations: float, *, integer: bool = False) -> float:
        """The least time for reading so many bytes while multiplying so much, in float32 or 8-bit integers."""
        multiply = self.int8_gop_s if integer and self.int8_gop_s else self.multiply_gflop_s
        return max(nbytes / (self.read_gb_s * 1e9), operations / (multiply * 1e9))


def describe() -> dict[str, Any]:
    """Processor, memory, load and the kernels in use; nothing that names this particular machine."""
    flags = _cpuinfo("flags").split() or _cpuinfo("Features").split()
    built = kernels.describe()
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": physical_cores(),
        "isa": [flag for flag in _ISA_FLAGS if flag in flags],
        "last_level_cache_mib": round(_last_level_cache_bytes() / 2**20, 1),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "kernels": {key: built[key] for key in ("backend", "isa", "threads") if key in built},
        "load_per_core": round(load_per_core(), 2),
    }


def load_per_core() -> float:
    """Runnable threads per core over the last minute, those of this benchmark included."""
    return os.getloadavg()[0] / physical_cores()


def measure_limits(model_bytes: int, repeats: int = 12) -> Limits:
    """Measure both limits now; reads over a buffer of the model's size, at most 1 GiB."""
    nbytes = max(2**20, min(model_bytes, _MAX_READ_BYTES))
    return Limits(read_gb_s(nbytes, repeats), multiply_gflop_s(repeats), nbytes)


def multiply_int8_gop_s(repeats: int = 12, rows: int = 512, side: int = 4096) -> float:
    """10^9 operations a second of [rows, side] float32 with int8 weights [side, side], by the fastest of torch's own
    quantised engines at its full range; quantising the activations is included. A multiply-add counts as two; 0 where
    this torch has no such engine."""
    x = torch.randn(rows, side)
    multiply = torch.ops.quantized.linear_dynamic
    best_s = float("inf")
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still the fastest that torch has
        weight = torch.quantize_per_tensor(torch.randn(side, side), 0.01, 0, torch.qint8)
        try:
            for engine in torch.backends.quantized.supported_engines:
                if engine in ("fbgemm", "x86", "onednn"):
                    torch.backends.quantized.engine = engine
                    packed = torch.ops.quantized.linear_prepack(weight, None)
                    best_s = min(best_s, _best_s(partial(multiply, x, packed, False), repeats))
        finally:
            torch.backends.quantized.engine = before
    return 2 * rows * side * side / best_s / 1e9


def read_gb_s(nbytes: int, repeats: int = 12) -> float:
    """Gigabytes (10^9 bytes) a second of the fastest streaming read: a sum, a maximum, and a matrix-vector product."""
    width = 1024
    matrix = torch.ones(nbytes // (4 * width), width)
    vector = torch.ones(width)
    reads: list[Callable[[], object]] = [matrix.sum, matrix.amax, lambda: torch.mv(matrix, vector)]
    return matrix.nbytes / min(_best_s(read, repeats) for read in reads) / 1e9


def multiply_gflop_s(repeats: int = 12, side: int = 1024) -> float:
    """10^9 floating-point operations a second of a square float32 product; a multiply-add counts as two."""
    a, b = torch.ones(side, side), torch.ones(side, side)
    return 2 * side**3 / _best_s(lambda: torch.mm(a, b), repeats) / 1e9


def settle(limit_s: float = 5.0, window_s: float = 0.02) -> float:
    """Wait until no thread of this process spins, so that one system does not run against the other's idle threads.

    Returns the share of a core that this process still used in the last window while it was supposed to sleep.
    """
    ends = time.perf_counter() + limit_s
    while True:
        wall, used = time.perf_counter(), time.process_time()
        time.sleep(window_s)
        share = (time.process_time() - used) / (time.perf_counter() - wall)
        if share < 0.05 or time.perf_counter() > ends:
            return share


def _best_s(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""  # not Linux
    match = re.search(rf"^{re.escape(field)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _last_level_cache_bytes() -> int:
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KM]?)", file.read_text(encoding="utf-8").strip())
        if match:
            sizes.append(int(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]])
    return max(sizes, default=0)
