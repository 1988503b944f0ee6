"""`deepseek evaluate --perplexity`, and the options that quantise: a table, one JSON object, or one line that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Run


def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 6, encoding="utf-8")
    return file


def test_a_quantised_model_is_compared_with_its_stored_form(run: Run, model_dir: Path, tmp_path: Path) -> None:
    command = ("evaluate", "--model", model_dir, "--perplexity", text_file(tmp_path), "--quantization", "int8")
    table = run(*command, "--compare", "none", "--context", 16)
    assert table.code == 0
    for name in ("weights", "perplexity of the reference", "change of perplexity", "KL to the reference, mean"):
        assert name in table.out
    assert "int8, " in table.out and "windows of 16 tokens" in table.out
    answer = json.loads(run(*command, "--compare", "none", "--max-tokens", 40, "--json").out)
    assert answer["tokens"] == 40 and answer["quantization"] == "int8" and answer["compared_with"] == "none"
    assert 0.8 < answer["perplexity_ratio"] < 1.2 and 0 < answer["kl_mean"] < 0.1


def test_without_compare_there_is_perplexity_alone(run: Run, model_dir: Path) -> None:
    answer = json.loads(
        run("evaluate", "--model", model_dir, "--perplexity", "builtin", "--max-tokens", 30, "--json").out
    )
    assert answer["tokens"] == 30 and "kl_mean" not in answer
    assert answer["bits_per_weight"] > 30  # stored as float32


def test_what_cannot_be_measured_is_one_line(refused: Callable[..., str], model_dir: Path, tmp_path: Path) -> None:
    command = ("evaluate", "--model", model_dir, "--perplexity")
    assert "missing.txt: cannot be read" in refused(*command, tmp_path / "missing.txt")
    assert "context: is longer than the model's" in refused(*command, "builtin", "--context", 10**6)
    (tmp_path / "empty.txt").write_text("")
    assert "holds nothing to score" in refused(*command, tmp_path / "empty.txt")
    assert "int3" in refused("generate", "--model", model_dir, "--prompt", "Hi", "--quantization", "int3")


def test_generate_runs_quantised_through_a_cache(run: Run, model_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = ("generate", "--model", model_dir, "--prompt-ids", "1,2,3", "--max-tokens", 4, "--temperature", 0)
    command += ("--ignore-eos", "--quantization", "int8", "--json")
    plain = run(*command).out
    assert run(*command, "--quantization-cache", cache).out == plain
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1
    assert run(*command, "--quantization-cache", cache).out == plain


def test_auto_says_what_it_chose(run: Run, model_dir: Path) -> None:
    command = ("generate", "--model", model_dir, "--prompt-ids", "1", "--max-tokens", 1, "--quantization", "auto")
    assert "quantization auto: none fits into 60% of" in run(*command).err
