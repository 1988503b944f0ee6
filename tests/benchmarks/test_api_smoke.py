"""benchmarks/api.py at a size that takes seconds: every part runs, and what it reports is whole. Its numbers mean nothing
here, but for those that no size changes: nothing is lost, and nothing goes beyond a budget."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("latency", "throughput", "streaming", "memory", "tiers", "budget", "abort", "grpc")


@pytest.fixture(scope="module")
def api() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import api

        yield api
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(autouse=True)
def small(api: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    size = api.Size(seconds=0.2, runs=1, streams=4, frames=3, requests=100, budget_tokens=500)
    monkeypatch.setattr(api, "QUICK", size)
    monkeypatch.delenv("LITELLM_PYTHON", raising=False)


def document_of(module: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert module.main([*arguments, "--quick"]) == 0
    printed = capsys.readouterr().out.rstrip("\n").split("\n")
    document: dict[str, Any] = json.loads(printed[-1])
    table = "\n".join(printed[:-1])
    assert all(name in table for name in [*document["results"], *document["not_measured"]])
    return document


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_measured_by_itself(api: ModuleType, capsys: pytest.CaptureFixture[str], part: str) -> None:
    document = document_of(api, capsys, part)
    assert not document["not_measured"] and document["results"]
    assert all(name.startswith(("gRPC" if part == "grpc" else part).removesuffix("s")) for name in document["results"])
    # Differences of two measurements may be anything at this size.
    whole = {name: row["ours"] for name, row in document["results"].items() if "added" not in name}
    assert all(value >= 0 or part == "memory" for value in whole.values())
    exact = {name: row["ours"] for name, row in document["results"].items() if "lost" in name or "beyond" in name}
    assert set(exact.values()) <= {0.0}


def test_every_part_there_is_has_a_test(api: ModuleType) -> None:
    assert set(api.PARTS) - {"litellm"} == set(PARTS)


def test_a_peer_that_is_not_there_is_said(api: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(api, capsys, "litellm")
    assert document["not_measured"] == {"litellm": "LITELLM_PYTHON is not set"} and not document["results"]


def test_a_part_that_does_not_exist_is_refused(api: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        api.main(["speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err
