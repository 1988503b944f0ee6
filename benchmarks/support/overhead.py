"""Where a step's time goes that is not spent in the compiled kernels.

Every function of the kernel library is wrapped by a clock; what is left of a step's wall time is Python, torch and the
plan. Two passes: one with the clock alone, for the number, one under cProfile, for the shares.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from deepseek import LLM, SamplingParams
from deepseek.kernels import backend


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds a step at batch 1, medians. shares: of the time outside kernels, by module, the largest first."""

    step_ms: float
    kernels_ms: float
    outside_ms: float
    kernel_calls: float
    shares: dict[str, float]


def measure_overhead(llm: LLM, prompt: list[int], new_tokens: int) -> Overhead:
    """Decode one stream of `new_tokens` and look at each step but the first. The loop is stepped as `LLM` steps it."""
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    llm.generate([prompt], params)
    with _clocked_kernels() as clock:
        steps, kernels, calls = _steps(llm, prompt, params, clock)
        profile = cProfile.Profile()
        profile.enable()
        llm.generate([prompt], params)
        profile.disable()
    outside = [step - kernel for step, kernel in zip(steps, kernels, strict=True)]
    return Overhead(
        1000 * statistics.median(steps),
        1000 * statistics.median(kernels),
        1000 * statistics.median(outside),
        statistics.median(calls),
        _shares(profile),
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0


class _ClockedLibrary:
    """The library, with every function's time added to the clock."""

    def __init__(self, library: Any, clock: _Clock) -> None:
        self._library, self._clock = library, clock

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function, clock = getattr(self._library, name), self._clock

        def clocked(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            clock.seconds += time.perf_counter() - start
            clock.calls += 1
            return result

        setattr(self, name, clocked)
        return clocked


@contextmanager
def _clocked_kernels() -> Iterator[_Clock]:
    """Raises AttributeError on a backend without a library: the reference kernels have no inside."""
    current: Any = backend.current()
    library, clock = current._lib, _Clock()
    current._lib = _ClockedLibrary(library, clock)
    try:
        yield clock
    finally:
        current._lib = library


def _steps(
    llm: LLM, prompt: list[int], params: SamplingParams, clock: _Clock
) -> tuple[list[float], list[float], list[int]]:
    """Seconds from token to token, seconds in kernels and kernel calls between them."""
    marks: list[tuple[float, float, int]] = []
    llm.generate(
        [prompt], params, on_token=lambda _i, _t: marks.append((time.perf_counter(), clock.seconds, clock.calls))
    )
    pairs = list(pairwise(marks[1:]))
    return (
        [after[0] - before[0] for before, after in pairs],
        [after[1] - before[1] for before, after in pairs],
        [after[2] - before[2] for before, after in pairs],
    )


def _shares(profile: cProfile.Profile) -> dict[str, float]:
    """Own time by module of ours, built-in functions counted where they were called from; kernels and clocks left out."""
    own: dict[str, float] = defaultdict(float)
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # documented by use only
    for (file, _line, name), (_, _, seconds, _, callers) in stats.items():
        if file == __file__ or name == "clocked":
            continue
        if file == "~":
            for (caller_file, _caller_line, caller), (_, _, called_seconds, _) in callers.items():
                if caller != "clocked":
                    own[_module(caller_file)] += called_seconds
        else:
            own[_module(file)] += seconds
    total = sum(own.values())
    largest = sorted(own.items(), key=lambda item: -item[1])[:8]
    return {module: round(seconds / total, 3) for module, seconds in largest}


def _module(file: str) -> str:
    parts = Path(file).with_suffix("").parts
    for package in ("deepseek", "torch", "numpy"):
        if package in parts:
            return ".".join(parts[len(parts) - 1 - parts[::-1].index(package) :][:3])
    return "other"
