"""Builds the CPU kernels, once, with the machine's own C++ compiler.

The library's name carries a hash of the sources and flags and one of the compiler, so a library is either the right
one or not found. It is looked for, and built, first inside the package (where `make install` puts it), else in the
user's cache directory (`$XDG_CACHE_HOME/deepseek/kernels`). Each build works in a directory of its own and ends in an
atomic rename: any number of processes may build at the same time. Run by hand: `python -m
deepseek.kernels.cpu.build`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseek.core.errors import ConfigError

SOURCES = Path(__file__).parent / "src"
PACKAGE_DIR = Path(__file__).parent / "_build"
# No -ffast-math and no contraction: which operations are fused is written in the source, and is the same everywhere.
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-math-errno"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized"),
)
_PORTABLE: dict[str, tuple[str, ...]] = {"portable": ("-DISA_PORTABLE",)}
# The avx512vnni file also holds the AMX kernels, which need no flag of their own (src/tiles.h).
ISA_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        **_PORTABLE,
        "avx2": ("-DISA_AVX2", "-mavx2", "-mfma", "-mf16c"),
        "avx512vnni": (
            *("-DISA_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
            *("-mavx2", "-mfma", "-mf16c"),
        ),
        "avx512": ("-DISA_AVX512", "-mavx512f", "-mavx2", "-mfma", "-mf16c"),
    },
    "aarch64": {**_PORTABLE, "neon": ("-DISA_NEON", "-march=armv8.2-a+dotprod")},
}
_COMMON = ("work", "library", "isa", "layers", "pack")
_TIMEOUT_S = 600


def isa_flags() -> dict[str, tuple[str, ...]]:
    """Instruction sets this kind of processor may have, and the compiler flags of each."""
    machine = platform.machine().lower()
    return ISA_FLAGS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), _PORTABLE)


def source_hash() -> str:
    """Hash of everything but the compiler that decides what the library computes."""
    digest = hashlib.sha256(repr((FLAGS, isa_flags(), platform.system(), platform.machine())).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def compiler() -> tuple[str, str] | None:
    """Path and version line of the C++ compiler (`$CXX`, else g++, c++, clang++), or None."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "c++", "clang++")):
        path = shutil.which(name)
        if path is None:
            continue
        try:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # present but broken: try the next one
        lines = answer.stdout.splitlines()
        return path, lines[0] if lines else "unknown"
    return None


def user_cache() -> Path:
    """Where a library goes when the package directory cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "deepseek" / "kernels"


def find_library() -> Path | None:
    """An already built library for these sources, or None. A compiler is only asked when there is a choice."""
    stem = f"kernels-{source_hash()}-"
    for directory in (PACKAGE_DIR, user_cache()):
        found = sorted(directory.glob(f"{stem}*.so")) if directory.is_dir() else []
        if len(found) > 1 and (tool := compiler()) is not None:
            ours = directory / f"{stem}{_short(tool[1])}.so"
            found = [ours] if ours in found else found
        if found:
            return found[0]
    return None


def build(*, force: bool = False) -> Path:
    """Builds the library for these sources and this compiler unless it is there; returns its path.

    Raises ConfigError when there is no compiler, it fails, or no directory can be written.
    """
    tool = compiler()
    if tool is None:
        raise ConfigError(
            "no C++ compiler to build the CPU kernels with",
            expected="g++ or clang++ on PATH, or CXX set",
            fix="install one (Debian: apt install g++), or set DEEPSEEK_KERNELS=reference for the slow fallback",
        )
    name = f"kernels-{source_hash()}-{_short(tool[1])}.so"
    if not force:
        for directory in (PACKAGE_DIR, user_cache()):
            if (directory / name).is_file():
                return directory / name
    directory = _writable_directory()
    # Old libraries are left alone: another process may be about to load one.
    print(f"building the CPU kernels with {tool[1]}, once (about 20 s) ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deepseek-kernels-") as scratch:
        objects = compile_objects(tool[0], Path(scratch), isa_flags())
        handle, partial = tempfile.mkstemp(dir=directory, suffix=".partial")
        os.close(handle)
        try:
            _run([tool[0], "-shared", "-pthread", *map(str, objects), "-o", partial])
            os.chmod(partial, 0o755)
            os.replace(partial, directory / name)
        finally:
            Path(partial).unlink(missing_ok=True)
    print(f"built {directory / name} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return directory / name


def _short(version: str) -> str:
    return hashlib.sha256(version.encode()).hexdigest()[:8]


def _writable_directory() -> Path:
    problems = []
    for directory in (PACKAGE_DIR, user_cache()):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700 if directory != PACKAGE_DIR else 0o755)
            (directory / ".gitignore").write_text("*\n", encoding="utf-8")
            return directory
        except OSError as error:
            problems.append(f"{directory}: {error.strerror}")
    raise ConfigError(
        "no directory to put the built CPU kernels into",
        found="; ".join(problems),
        fix="make one writable, set XDG_CACHE_HOME, or set DEEPSEEK_KERNELS=reference",
    )


def compile_objects(
    tool: str, scratch: Path, isas: Mapping[str, tuple[str, ...]], flags: Sequence[str] = FLAGS
) -> list[Path]:
    """Compiles the library's objects with compiler `tool` into `scratch`, for the instruction sets `isas` (name to flags).

    A set left out is one that the library then says it lacks. Raises ConfigError when the compiler fails.
    """
    jobs = [(SOURCES / "kernels.cpp", scratch / f"{isa}.o", more) for isa, more in isas.items()]
    jobs += [(SOURCES / f"{name}.cpp", scratch / f"{name}.o", ()) for name in _COMMON]
    running = []
    for source, target, more in jobs:
        command = [tool, *flags, *more, "-c", str(source), "-o", str(target)]
        log = open(target.with_suffix(".log"), "w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        running.append((command, log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)))
    try:
        for command, log, process in running:
            if process.wait(timeout=_TIMEOUT_S) != 0:
                log.seek(0)
                raise _failure(command, log.read())
    except subprocess.TimeoutExpired as error:
        raise _failure(running[0][0], f"still running after {_TIMEOUT_S} s") from error
    finally:
        for _, log, process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
            log.close()
    return [target for _, target, _ in jobs]


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failure(command, str(error)) from error
    if result.returncode != 0:
        raise _failure(command, result.stdout + result.stderr)


def _failure(command: list[str], output: str) -> ConfigError:
    errors = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()[-5:]
    return ConfigError(
        "the C++ compiler could not build the CPU kernels",
        where=" ".join(command[:1] + command[-3:]),
        found=" | ".join(errors[:5]) or "no output",
        fix="use another compiler through CXX, or set DEEPSEEK_KERNELS=reference for the slow fallback",
    )


def main() -> int:
    """Entry of `python -m deepseek.kernels.cpu.build [--force]`; prints the library's path."""
    try:
        print(build(force="--force" in sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
