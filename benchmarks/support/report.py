"""One way of reporting: progress on stderr, a table that can be pasted into docs/benchmarks.md on stdout, one JSON line last.

A `Result` is one claim. Speeds are medians over the rounds; the ratio is the median of the rounds' own ratios, since the
two turns of a round share the machine's mood and two rounds do not.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import deepseek

_PEERS = ("torch", "transformers", "numpy", "tokenizers")


class NotMeasured(Exception):
    """A peer or a part that is not there: its message is the reason, and goes where the numbers would have been."""


@dataclass(frozen=True, slots=True)
class Result:
    """ours, peer: medians in `unit`. wanted: of the ratio where there is a peer, else of `ours`, which must stay below;
    None where nothing is claimed. aim: what would be better still.

    limit: what the machine allows, in `unit`. notes: everything else worth keeping, JSON values only.
    """

    ours: float
    unit: str
    wanted: float | None
    peer: float | None = None
    ratio: float | None = None
    limit: float | None = None
    limit_is: str = ""
    aim: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        if self.wanted is None:
            return True
        return self.ours < self.wanted if self.ratio is None else self.ratio >= self.wanted

    @property
    def of_limit(self) -> float | None:
        """How near the limit, 1 being there: speeds as a share of it; for times the share that it accounts for."""
        if self.limit is None:
            return None
        return self.limit / self.ours if self.peer is None else self.ours / self.limit


def compared(ours: Sequence[float], peer: Sequence[float], unit: str, wanted: float | None, **more: Any) -> Result:
    """A claim about rounds of the two, in the order they ran."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    notes = {
        "rounds": len(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ours_all": [round(speed, 2) for speed in ours],
        "peer_all": [round(speed, 2) for speed in peer],
    }
    return Result(
        statistics.median(ours),
        unit,
        wanted,
        peer=statistics.median(peer),
        ratio=statistics.median(ratios),
        limit=more.get("limit"),
        limit_is=more.get("limit_is", ""),
        aim=more.get("aim"),
        notes=notes | more.get("notes", {}),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    return {
        "deepseek-stack": deepseek.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PEERS},
    }


def table(
    machine: Mapping[str, Any], results: Mapping[str, Result], not_measured: Mapping[str, str] | None = None
) -> str:
    """Markdown. not_measured: reasons by the name of what is missing."""
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['isa'])}), {machine['memory_gib']} GiB memory, "
        f"{machine['last_level_cache_mib']} MiB last-level cache; kernels {_kernels(machine)}; "
        f"load per core {machine['load_per_core']} before, {machine.get('load_per_core_after', '?')} after.",
        "",
        "| | ours | peer | ratio | wanted | reached | of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        ratio = "" if result.ratio is None else f"{result.ratio:.2f}x"
        peer = "" if result.peer is None else _number(result.peer, result.unit)
        share = "" if result.of_limit is None else f"{result.of_limit:.0%} of {result.limit_is}"
        reached = "" if result.wanted is None else "yes" if result.ok else "**no**"
        lines.append(
            f"| {name} | {_number(result.ours, result.unit)} | {peer} | {ratio} | {_wanted(result)} | {reached} | {share} |"
        )
    lines += [f"| {name} | not measured: {reason} |  |  |  |  |  |" for name, reason in (not_measured or {}).items()]
    return "\n".join(lines)


def json_line(
    machine: Mapping[str, Any], results: Mapping[str, Result], not_measured: Mapping[str, str] | None = None
) -> str:
    rows = {}
    for name, result in results.items():
        row = asdict(result) | {"ok": result.ok, "of_limit": result.of_limit}
        row |= row.pop("notes")
        rows[name] = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    document = {"machine": machine, "results": rows, "versions": versions()}
    if not_measured is not None:
        document["not_measured"] = dict(not_measured)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _wanted(result: Result) -> str:
    if result.wanted is None:
        return ""
    if result.ratio is None:
        return f"< {result.wanted:g} {result.unit}"
    return f">= {result.wanted:g}x" + ("" if result.aim is None else f" (aim {result.aim:g}x)")


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _kernels(machine: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in machine["kernels"].values()) + " threads"
