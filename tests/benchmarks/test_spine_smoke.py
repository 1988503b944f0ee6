"""benchmarks/spine.py at a size that takes seconds: every part runs, and what it reports is whole. Its numbers mean nothing
here."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY_QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def spine() -> Iterator[ModuleType]:
    """The script as a module; the peer sets torch's threads, which are put back."""
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import spine

        yield spine
    finally:
        sys.path.remove(str(BENCHMARKS))
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_limits(spine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the machine and choosing the peer's fastest form takes most of the time; one core and one run will do."""
    contestants, machine = sys.modules["support.contestants"], sys.modules["support.machine"]
    monkeypatch.setattr(contestants, "physical_cores", lambda: 1)
    monkeypatch.setattr(contestants, "_EXPERT_FORMS", ("grouped_mm",))
    monkeypatch.setattr(machine, "measure_limits", lambda nbytes, repeats=1: machine.Limits(10.0, 100.0, nbytes))


@pytest.fixture
def line(spine: ModuleType) -> Any:
    """A function that turns results into the last line of the output, and checks that it is one line of JSON."""

    def parsed(results: dict[str, Any]) -> dict[str, Any]:
        described = spine.machine.describe()
        table = spine.report.table(described, results)
        assert all(name in table for name in results)
        text = spine.report.json_line(described, results)
        assert "\n" not in text
        document = json.loads(text)
        assert set(document) == {"machine", "results", "versions"}
        assert all({"ours", "peer", "ratio", "wanted", "ok"} <= set(row) for row in document["results"].values())
        return document["results"]

    return parsed


def test_a_start_is_timed_to_the_first_text(spine: ModuleType, line: Any) -> None:
    results = line(spine.start(runs=1, requests=3, warm_up=False))
    assert results["start: ready"]["ours"] > 0
    assert results["start: first text"]["requests"] == 3


def test_the_builtin_model_gives_what_transformers_gives(spine: ModuleType, line: Any) -> None:
    results = line(spine.builtin(runs=1, streams=(1, 2), prompt_tokens=16, new_tokens=8))
    assert list(results) == ["builtin: 1 stream", "builtin: 2 streams"]
    assert all(row["equal_ids"] > 0.5 for row in results.values())


def test_a_qwen2_shaped_checkpoint_gives_what_transformers_gives(spine: ModuleType, line: Any, tmp_path: Path) -> None:
    (row,) = line(spine.qwen2(runs=2, cache=tmp_path, shape=TINY_QWEN2, prompt_tokens=8, new_tokens=8)).values()
    assert row["equal_ids"] == 1
    assert row["ours_gb_s"] >= 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_is_written_once(spine: ModuleType, tmp_path: Path) -> None:
    first = spine.random_checkpoint(TINY_QWEN2, tmp_path)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert spine.random_checkpoint(TINY_QWEN2, tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written


def test_a_step_reads_the_weights_once_and_no_expert_twice(spine: ModuleType) -> None:
    directory = spine.builtin_dir()
    one, many, more = (spine.work_of(directory, streams) for streams in (1, 4, 16))
    assert one.bytes_per_step < many.bytes_per_step == more.bytes_per_step == more.model_bytes
    assert one.flop_per_token == more.flop_per_token


def test_memory_reads_and_products_are_measured(spine: ModuleType) -> None:
    machine = sys.modules["support.machine"]
    assert machine.read_gb_s(2**20, repeats=1) > 0
    assert machine.multiply_gflop_s(repeats=1, side=64) > 0
    assert machine.Limits(10.0, 100.0, 0).tokens_per_s(10**9, 10**9, streams=4) == 40
    assert machine.Limits(10.0, 100.0, 0).tokens_per_s(10**9, 10**10, streams=20) == 10


def test_a_claim_with_a_peer_is_the_median_of_the_rounds_own_ratios(spine: ModuleType) -> None:
    result = spine.compared([2.0, 8.0, 30.0], [1.0, 2.0, 20.0], "tokens/s", wanted=1.9)
    assert (result.ours, result.peer, result.ratio, result.ok) == (8.0, 2.0, 2.0, True)
    assert not spine.compared([1.0], [1.0], "tokens/s", wanted=1.5).ok


def test_a_claim_without_a_peer_must_stay_below_what_is_wanted(spine: ModuleType) -> None:
    assert spine.Result(7.0, "s", 8.0).ok
    assert not spine.Result(9.0, "s", 8.0).ok
