"""The kernels of 64-bit Arm, cross-compiled and run in emulation: NEON computes the bits of AVX2, portable those of portable.

Needs a cross compiler and an emulator (Debian: g++-aarch64-linux-gnu, qemu-user-static); skipped where either is missing. On
an Arm machine all other tests of this folder run on NEON itself.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from deepseek.kernels.cpu import build as builder
from deepseek.kernels.cpu.backend import CppBackend
from tests.kernels.oracle import assert_same_bits

DRIVER = Path(__file__).parent / "driver.cpp"
CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
NOT_USABLE = 3  # the driver's exit status where the processor lacks the instruction set

pytestmark = [
    pytest.mark.skipif(
        not (CROSS_COMPILER and EMULATOR),
        reason="no cross compiler or emulator: g++-aarch64-linux-gnu, qemu-user-static",
    ),
    pytest.mark.timeout(600),  # compilers run first
]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for Arm, with the library inside."""
    folder = tmp_path_factory.mktemp("arm")
    assert CROSS_COMPILER is not None
    objects = builder.compile_objects(CROSS_COMPILER, folder, builder.ISA_FLAGS["aarch64"])
    for log in folder.glob("*.log"):
        assert log.read_text() == "", "the compiler warns"
    return _link(CROSS_COMPILER, folder, "-static", *map(str, objects))


@pytest.fixture(scope="module")
def native(cpp: CppBackend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for this machine, on the library that the other tests use."""
    tool = builder.compiler()
    if tool is None:
        pytest.skip("no C++ compiler for this machine")
    library = cpp.library.resolve()
    return _link(tool[0], tmp_path_factory.mktemp("native"), str(library), f"-Wl,-rpath,{library.parent}")


@pytest.mark.parametrize(("theirs", "ours"), [("portable", "portable"), ("neon", "avx2")])
def test_arm_computes_the_bits_of_this_machine(
    arm: Path, native: Path, cpp: CppBackend, theirs: str, ours: str
) -> None:
    if ours not in cpp.available_isas():
        pytest.skip(f"this processor has no {ours}")
    actual, expected = _results([str(EMULATOR), str(arm), theirs]), _results([str(native), ours])
    assert [name for name, _ in actual] == [name for name, _ in expected]
    for (name, values), (_, oracle) in zip(actual, expected, strict=True):
        print(name)  # which operation, where the next line fails
        assert_same_bits(values, oracle)


def test_an_arm_processor_without_dot_products_has_the_portable_kernels_alone(arm: Path) -> None:
    old = [str(EMULATOR), "-cpu", "cortex-a53", str(arm)]
    assert subprocess.run([*old, "neon"], capture_output=True).returncode == NOT_USABLE
    assert _results([*old, "portable"])


def _link(tool: str, folder: Path, *more: str) -> Path:
    program = folder / "driver"
    command = [tool, "-O1", "-std=c++17", "-pthread", f"-I{builder.SOURCES}", str(DRIVER), *more, "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def _results(command: list[str]) -> list[tuple[str, torch.Tensor]]:
    """The driver's sections: names and values."""
    run = subprocess.run(command, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    sections, at = [], 0
    while at < len(run.stdout):
        end = run.stdout.index(b"\n", at)
        name, count = run.stdout[at:end].decode().rsplit(" ", 1)
        at = end + 1 + 4 * int(count)
        sections.append((name, torch.frombuffer(bytearray(run.stdout[end + 1 : at]), dtype=torch.float32)))
    return sections
