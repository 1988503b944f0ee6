"""The library is built once, found again, replaced atomically, and done without where there is no compiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deepseek import kernels as K
from deepseek.core.errors import ConfigError
from deepseek.kernels import Backend
from deepseek.kernels.backend import default_backend, physical_cores
from deepseek.kernels.cpu import build as builder
from deepseek.kernels.cpu.backend import CppBackend


def a_compiler(folder: Path, body: str) -> str:
    """A stand-in compiler: what it does is `body`, in sh."""
    path = folder / "fake-c++"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(builder, "PACKAGE_DIR", tmp_path / "package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_built_library_is_found_and_built_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = empty_cache / "log"
    body = f'echo run >> {log}; [ "$1" = --version ] && echo "fake 1.0"; while [ $# -gt 1 ]; do shift; done; touch "$1"'
    monkeypatch.setenv("CXX", a_compiler(empty_cache, body))
    assert builder.find_library() is None
    library = builder.build()
    calls = len(log.read_text().splitlines())
    assert library == builder.find_library() == builder.build()
    assert library.parent == empty_cache / "package"
    assert not list(library.parent.glob("*.partial"))
    assert len(log.read_text().splitlines()) == calls + 1, "only asked for its version the second time"


def test_another_compiler_or_source_means_another_library(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(builder, "SOURCES", tmp_path / "src")
    before = builder.source_hash()
    (tmp_path / "src" / "a.cpp").write_text("int a;")
    assert builder.source_hash() != before
    with_source = builder.source_hash()
    monkeypatch.setattr(builder, "FLAGS", (*builder.FLAGS, "-ffast-math"))
    assert builder.source_hash() != with_source


@pytest.mark.parametrize(
    ("machine", "isas"),
    [
        ("x86_64", {"portable", "avx2", "avx512", "avx512vnni"}),
        ("AMD64", {"portable", "avx2", "avx512", "avx512vnni"}),
        ("aarch64", {"portable", "neon"}),
        ("arm64", {"portable", "neon"}),
        ("riscv64", {"portable"}),
    ],
)
def test_each_kind_of_processor_has_its_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, machine: str, isas: set[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert set(builder.isa_flags()) == isas


def test_asking_what_there_is_changes_nothing_that_is_in_use(cpp: CppBackend) -> None:
    cpp.set_isa("portable")
    assert "portable" in cpp.available_isas() and cpp.refused_isas() == []
    assert cpp.describe()["isa"] == "portable"
    cpp.set_isa(None)


def test_a_package_that_cannot_be_written_builds_into_the_users_cache(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_cache / "package").write_text("a file where the directory would go")
    monkeypatch.setenv(
        "CXX",
        a_compiler(empty_cache, 'for last; do :; done; echo "fake 1.0"; [ "$last" = --version ] || touch "$last"'),
    )
    assert builder.build().parent == empty_cache / "cache" / "deepseek" / "kernels"


def test_a_compiler_that_fails_is_named_with_what_it_said(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = '[ "$1" = --version ] && echo "fake 1.0" && exit 0; echo "simd.h:3: error: no such thing" >&2; exit 1'
    monkeypatch.setenv("CXX", a_compiler(empty_cache, body))
    with pytest.raises(ConfigError, match=r"fake-c\+\+.*no such thing.*Fix"):
        builder.build()
    assert builder.find_library() is None


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, cpp: CppBackend) -> Iterator[Callable[..., Backend]]:
    """Chooses a backend as a new process with these settings would."""
    threads = torch.get_num_threads()

    def chosen(**environment: str) -> Backend:
        for name in ("DEEPSEEK_KERNELS", "DEEPSEEK_ISA", "DEEPSEEK_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return default_backend.__wrapped__()

    yield chosen
    cpp.set_isa(None)
    torch.set_num_threads(threads)


def test_the_environment_chooses_backend_instruction_set_and_threads(choose: Callable[..., Backend]) -> None:
    portable = choose(DEEPSEEK_KERNELS="cpp", DEEPSEEK_ISA="portable", DEEPSEEK_NUM_THREADS="3").describe()
    assert (portable["backend"], portable["isa"], portable["threads"]) == ("cpp", "portable", 3)
    assert choose(DEEPSEEK_KERNELS="reference").describe()["backend"] == "reference"
    assert choose().num_threads() == physical_cores()


def test_without_a_compiler_the_reference_is_used_and_says_so(
    empty_cache: Path,
    choose: Callable[..., Backend],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    backend = choose()
    assert backend.describe()["backend"] == "reference"
    assert "no C++ compiler" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        choose(DEEPSEEK_KERNELS="cpp")


@pytest.mark.parametrize(
    "environment",
    [{"DEEPSEEK_KERNELS": "fast"}, {"DEEPSEEK_ISA": "avx1024"}, {"DEEPSEEK_NUM_THREADS": "none"}],
    ids=lambda environment: next(iter(environment)),
)
def test_a_setting_that_makes_no_sense_is_an_error(choose: Callable[..., Backend], environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(environment))):
        choose(**environment)


def test_something_that_is_not_a_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_text("not a library")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        CppBackend(tmp_path / "kernels.so")


def test_the_pool_works_in_a_forked_child(cpp: CppBackend) -> None:
    with K.use_backend(cpp):
        K.set_num_threads(3)
        w, x = K.pack_weight(torch.randn(2048, 512)), torch.randn(4, 512)
        expected = K.linear(x, w)
        child = os.fork()
        if child == 0:
            same = K.num_threads() == 3 and all(torch.equal(K.linear(x, w), expected) for _ in range(5))
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.equal(K.linear(x, w), expected)


def test_describe_names_what_decides_the_bits(cpp: CppBackend) -> None:
    with K.use_backend(cpp):
        assert K.describe() == {
            "backend": "cpp",
            "isa": cpp.available_isas()[0],
            "threads": K.num_threads(),
            "library": str(cpp.library),
            "build": cpp.library.stem.removeprefix("kernels-"),
        }
