"""The AMX kernels, on a model of the AMX instructions in plain C++ (amx_emulated.h): the bits of the VNNI kernels.

What surrounds the tiles is AVX-512 with VNNI, so a processor without it skips these.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from deepseek import kernels as K
from deepseek.core.errors import ConfigError
from deepseek.kernels.cpu import build as builder
from deepseek.kernels.cpu.backend import CppBackend
from tests.kernels.oracle import assert_same_bits
from tests.kernels.test_integer import integer_weight

HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(600)  # a compiler runs first


@pytest.fixture(scope="module")
def library(cpp: CppBackend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel library with emulated AMX, and AVX-512 VNNI as its only other instruction set."""
    if "avx512vnni" not in cpp.available_isas():
        pytest.skip("this processor has no avx512vnni, which surrounds the emulated tiles")
    tool = builder.compiler()
    if tool is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("amx")
    # The lightest optimisation: what a kernel computes does not hang on it, and it builds in a few seconds.
    flags = ("-O1", *(flag for flag in builder.FLAGS if flag != "-O3"), "-DAMX_EMULATED", f"-I{HERE}")
    isas = {"avx512vnni": builder.isa_flags()["avx512vnni"]}
    objects = builder.compile_objects(tool[0], folder, isas, flags)
    target = folder / "kernels-amx.so"
    subprocess.run([tool[0], "-shared", "-pthread", *map(str, objects), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def amx(library: Path) -> CppBackend:
    backend = CppBackend(library)
    backend.set_num_threads(1)
    return backend


def on(backend: CppBackend, isa: str, x: torch.Tensor, w: K.PackedWeight) -> torch.Tensor:
    assert backend.set_isa(isa) == isa
    return backend.linear(x, w, None)


def test_a_processor_with_amx_uses_it(amx: CppBackend) -> None:
    assert amx.available_isas() == ["amx", "avx512vnni"]
    assert amx.refused_isas() == []
    assert amx.set_isa(None) == "amx"
    assert amx.describe()["isa"] == "amx"


@pytest.mark.parametrize("width", (8, 4))
@pytest.mark.parametrize(("n", "k"), [(1, 128), (70, 300), (33, 640), (64, 100)])
def test_tiles_compute_the_bits_of_vnni_for_every_number_of_rows(amx: CppBackend, width: int, n: int, k: int) -> None:
    w = amx.pack_integer(*integer_weight(n, k, width), width)
    x = torch.randn(193, k, generator=torch.Generator().manual_seed(0))
    for rows in (*range(1, 36), 49, 64, 97, 192, 193):
        assert_same_bits(on(amx, "amx", x[:rows], w), on(amx, "avx512vnni", x[:rows], w))


@pytest.mark.parametrize("width", (8, 4))
def test_the_largest_codes_are_exact_in_tiles(amx: CppBackend, width: int) -> None:
    low, high = (-127, 127) if width == 8 else (-8, 7)
    codes = torch.stack([torch.full((512,), value, dtype=torch.int8) for value in (low, high)] * 20)
    w = amx.pack_integer(codes, torch.ones(40, 512 // (128 if width == 8 else 32), dtype=torch.bfloat16), width)
    for value in (127.0, -127.0):
        y = on(amx, "amx", torch.full((33, 512), value), w)
        assert (y[:, 0] == low * value * 512).all() and (y[:, 1] == high * value * 512).all()


@pytest.mark.parametrize("width", (8, 4))
def test_a_row_that_is_not_finite_spoils_no_neighbour_of_its_tile(amx: CppBackend, width: int) -> None:
    w = amx.pack_integer(*integer_weight(40, 256, width), width)
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(1))
    clean = on(amx, "amx", x, w)
    x[17, 200] = float("nan")
    y = on(amx, "amx", x, w)
    kept = [row for row in range(40) if row != 17]
    assert y[17].isnan().all()
    assert_same_bits(y[kept], clean[kept])


@pytest.mark.parametrize("width", (8, 4))
def test_threads_and_experts_change_nothing(amx: CppBackend, width: int) -> None:
    def experts(n: int, k: int, first: int) -> K.PackedExperts:
        packed = [amx.pack_integer(*integer_weight(n, k, width, first + e), width) for e in range(3)]
        return amx.pack_experts(n, k, packed)

    gate, up, down = experts(160, 256, 0), experts(160, 256, 10), experts(256, 160, 20)
    x = torch.randn(48, 256, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([[0, 1], [2, 0], [1, 0]] * 16)
    weights = torch.full((48, 2), 0.5)
    results = []
    for isa, threads in (("avx512vnni", 1), ("amx", 1), ("amx", 3)):
        amx.set_isa(isa)
        amx.set_num_threads(threads)
        results.append(amx.expert_ffn(x, ids, weights, gate, up, down))
    amx.set_num_threads(1)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_a_processor_whose_tiles_compute_other_bits_is_refused_and_vnni_serves(library: Path, tmp_path: Path) -> None:
    copy = shutil.copy(library, tmp_path / "another.so")
    ctypes.c_int.in_dll(ctypes.CDLL(str(copy)), "ds_emulated_fault").value = 1
    backend = CppBackend(copy)
    assert backend.describe()["isa"] == "avx512vnni"
    assert backend.refused_isas() == ["amx"]
    with pytest.raises(ConfigError, match="amx"):
        CppBackend(copy, "amx")
