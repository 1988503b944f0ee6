"""benchmarks/engine_cpu.py at a size that takes seconds, without peers that have to be built: what is there runs, what is not
is said, and the last line is whole. Its numbers mean nothing here."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def engine_cpu() -> Iterator[ModuleType]:
    """The script as a module; the peer sets torch's threads, which are put back."""
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import engine_cpu

        yield engine_cpu
    finally:
        sys.path.remove(str(BENCHMARKS))
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_limits(engine_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the machine and choosing the peer's fastest form takes most of the time; one core and one run will do."""
    contestants, machine = sys.modules["support.contestants"], sys.modules["support.machine"]
    monkeypatch.setattr(contestants, "physical_cores", lambda: 1)
    monkeypatch.setattr(contestants, "_EXPERT_FORMS", ("grouped_mm",))
    monkeypatch.setattr(machine, "measure_limits", lambda nbytes, repeats=1: machine.Limits(10.0, 100.0, nbytes))
    monkeypatch.setattr(machine, "multiply_int8_gop_s", lambda: 200.0)
    for name in ("LLAMA_BIN", "LLAMA_SOURCE", "VLLM_PYTHON"):
        monkeypatch.delenv(name, raising=False)


def document_of(module: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    module.main([*arguments, "--quick"])
    printed = capsys.readouterr().out.rstrip("\n").split("\n")
    document: dict[str, Any] = json.loads(printed[-1])
    table = "\n".join(printed[:-1])
    assert all(name in table for name in [*document["results"], *document["not_measured"]])
    return document


def test_every_part_is_measured_or_says_why_not(
    engine_cpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = document_of(engine_cpu, capsys, "--work-dir", str(tmp_path))
    missing = document["not_measured"]
    for name in ("qwen2", "mixture"):
        for bits in ("int8", "int4"):
            assert "--llama-bin" in missing[f"{name} {bits}: llama.cpp at equal bits"]
        assert "--llama-bin" in missing[f"{name} int8: 2 streams, shared prefix"]
    assert "--vllm-python" in missing["vllm"]
    results = document["results"]
    for name in ("float32", "int8"):
        row = results[f"qwen2 {name}: decode, beside transformers float32"]
        assert row["ratio"] > 0 and len(row["ours_all"]) == len(row["peer_all"]) == 1
    assert {"builtin: 1 stream", "builtin: 2 streams"} <= set(results)
    for name in ("qwen2", "mixture"):
        assert results[f"{name} float32: exact beside the library's order, prefill"]["ratio"] > 0
    for name in ("qwen2", "builtin"):
        row = results[f"{name}: step overhead outside kernels"]
        assert row["peer"] is None and row["ours"] > 0 and row["kernel_calls"] >= 1
        assert 0.5 < sum(row["where"].values()) <= 1.001


def test_only_what_is_asked_for_runs(
    engine_cpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = document_of(engine_cpu, capsys, "vllm", "shared", "--checkpoint", "qwen2", "--work-dir", str(tmp_path))
    assert not document["results"]
    assert set(document["not_measured"]) == {"vllm", "qwen2 int8: 2 streams, shared prefix"}


def test_a_part_that_does_not_exist_is_refused(engine_cpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        engine_cpu.main(["speed"])
    assert "no such part: speed" in capsys.readouterr().err


def test_a_missing_tool_of_a_peer_is_named(engine_cpu: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(engine_cpu.NotMeasured, match="llama-bench is not in --llama-bin"):
        engine_cpu.Llama(tmp_path).tool("llama-bench")


def test_a_quantised_model_reads_fewer_bytes_and_multiplies_as_much(engine_cpu: ModuleType, tmp_path: Path) -> None:
    directory = engine_cpu.random_checkpoint(engine_cpu.QUICK_SHAPES["mixture"], tmp_path, dtype=torch.bfloat16)
    stored, int8, int4 = (sys.modules["support.checkpoints"].work_of(directory, 1, q) for q in ("none", "int8", "int4"))
    assert stored.bytes_per_step > int8.bytes_per_step > int4.bytes_per_step
    assert stored.flop_per_token == int8.flop_per_token == int4.flop_per_token


def test_the_roofline_is_the_slower_of_reading_and_multiplying(engine_cpu: ModuleType) -> None:
    limits = sys.modules["support.machine"].Limits(10.0, 100.0, 0, int8_gop_s=400.0)
    assert limits.seconds(20e9, 100e9) == 2.0
    assert limits.seconds(0, 400e9) == 4.0
    assert limits.seconds(0, 400e9, integer=True) == 1.0


def test_a_shared_prefix_is_the_same_in_text_and_in_ids(engine_cpu: ModuleType, tmp_path: Path) -> None:
    directory = engine_cpu.random_checkpoint(engine_cpu.QUICK_SHAPES["qwen2"], tmp_path, dtype=torch.bfloat16)
    words = sys.modules["support.shared_prefix"].Words(directory)
    start = words.some(40)
    one, other = (words.prompt(start + words.some(8)) for _ in range(2))
    assert len(one.ids) == 48
    assert one.ids[:40] == other.ids[:40] and one.ids != other.ids
