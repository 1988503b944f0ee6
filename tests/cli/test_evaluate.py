"""`deepseek evaluate`: the table of families with its intervals, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepseek.models.checkpoint import save_model
from deepseek.models.transformer import Model
from tests.cli.conftest import Run
from tests.training import micro


@pytest.fixture
def roomy_model(model_dir: Path, tmp_path: Path) -> Path:
    """The small model with a context the questions fit in."""
    for file in model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    recipe = micro.recipe(model={"vocab_size": 4096, "eos_token_id": 1, "max_position_embeddings": 512})
    save_model(Model(recipe.model_config_of()).initialize(5, std=0.3), tmp_path)
    return tmp_path


def test_an_untrained_model_knows_nothing_and_the_table_says_so(run: Run, roomy_model: Path) -> None:
    command = ("evaluate", "--model", roomy_model, "--draws", 4, "--family", "units", "--family", "search")
    table = run(*command, "--failures", 1)
    assert table.code == 0
    assert "| units | seen | 0/4 = 0.0% | 0.0% – 49.0% | 0.0% | 0.0% |" in table.out
    assert "| search | withheld | 0/4" in table.out and "single calls, seen phrasings: 0/8" in table.out
    assert "expected:" in table.out and "16/16" in table.err
    answer = json.loads(run(*command, "--json").out)
    assert {row["family"] for row in answer["scores"]} == {"units", "search"}
    assert [row["total"] for row in answer["single_call"]] == [8, 8]


def test_an_unknown_family_is_one_line(run: Run, model_dir: Path) -> None:
    outcome = run("evaluate", "--model", model_dir, "--draws", 1, "--family", "poetry")
    assert outcome.code == 2 and "unknown curriculum family; found 'poetry'" in outcome.err
