"""Each kernel test runs on every instruction set this machine has, and, where it says so, on the reference backend
too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deepseek.kernels import Backend, use_backend
from deepseek.kernels.cpu.backend import ISAS, CppBackend
from deepseek.kernels.cpu.build import build, find_library, isa_flags
from deepseek.kernels.fallback import ReferenceBackend

# Those that a processor of this kind may have; the amx kernels come with those of avx512vnni.
CANDIDATES = [name for name in ISAS if ("avx512vnni" if name == "amx" else name) in isa_flags()]


@pytest.fixture(scope="session")
def cpp() -> CppBackend:
    return CppBackend(find_library() or build())


def _on(name: str, cpp: CppBackend) -> Iterator[Backend]:
    torch.manual_seed(0)
    if name == "reference":
        with use_backend(ReferenceBackend()) as backend:
            yield backend
        return
    if name not in cpp.available_isas():
        pytest.skip(f"this processor has no {name}")
    cpp.set_isa(name)
    # One thread: helpers on a busy machine make thousands of tiny calls slow. Tests about threads set their own.
    cpp.set_num_threads(1)
    with use_backend(cpp):
        yield cpp
    cpp.set_isa(None)


@pytest.fixture(params=CANDIDATES)
def isa(request: pytest.FixtureRequest, cpp: CppBackend) -> Iterator[Backend]:
    """The compiled backend, on one instruction set after another."""
    yield from _on(request.param, cpp)


@pytest.fixture(params=(*CANDIDATES, "reference"))
def backend(request: pytest.FixtureRequest, cpp: CppBackend) -> Iterator[Backend]:
    """Every backend and instruction set."""
    yield from _on(request.param, cpp)
