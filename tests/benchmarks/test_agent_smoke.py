"""benchmarks/agent.py at a size that takes seconds: every part runs, and what it reports is whole. Its numbers mean nothing
here, but for the one that no size changes: no event is lost."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = {"step": 1, "parallel": 1, "cached": 1, "plugins": 1, "runs": 2}


@pytest.fixture(scope="module")
def agent() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import agent

        yield agent
    finally:
        sys.path.remove(str(BENCHMARKS))


def document_of(module: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert module.main([*arguments, "--quick"]) == 0
    printed = capsys.readouterr().out.rstrip("\n").split("\n")
    document: dict[str, Any] = json.loads(printed[-1])
    table = "\n".join(printed[:-1])
    assert all(name in table for name in [*document["results"], *document["not_measured"]])
    return document


@pytest.mark.parametrize("part", list(ROWS))
def test_each_part_is_measured_by_itself(agent: ModuleType, capsys: pytest.CaptureFixture[str], part: str) -> None:
    document = document_of(agent, capsys, part)
    assert len(document["results"]) == ROWS[part]
    assert all(row["ours"] == 0 for name, row in document["results"].items() if "lost" in name)
    # Without an interpreter that has them, the peers are named as what was not measured.
    assert len(document["not_measured"]) == (2 if part == "step" else 0)


@pytest.mark.parametrize("peer", ["smolagents", "pydantic-ai"])
def test_a_peer_that_is_there_is_measured_in_the_same_run(
    agent: ModuleType, capsys: pytest.CaptureFixture[str], peer: str
) -> None:
    pytest.importorskip(peer.replace("-", "_"))
    document = document_of(agent, capsys, "step", "--peers-python", sys.executable)
    assert document["results"][f"steps a second beside {peer}"]["peer"] > 0


def test_a_peer_that_cannot_be_run_is_not_measured(agent: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(agent, capsys, "step", "--peers-python", "/no/such/python")
    assert all("cannot be run" in reason for reason in document["not_measured"].values())
