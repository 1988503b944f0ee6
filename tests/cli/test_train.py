"""`deepseek train`: from a recipe to checkpoints, a picture and a model that serves."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from deepseek.training.state import list_states
from tests.cli.conftest import Run

TINY = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


def test_it_trains_resumes_draws_and_exports_a_model_that_generates(
    run: Run, recipe_file: Path, tmp_path: Path
) -> None:
    first = run("train", recipe_file, "--steps", 2)
    assert first.code == 0 and first.out == ""
    assert "2/2  loss " in first.err and "the same command goes on from here" in first.err
    second = run("train", recipe_file, "--steps", 1, "--export", tmp_path / "model")
    assert "from step 2" in second.err and f"deepseek serve --model {tmp_path / 'model'}" in second.err
    directory = tmp_path / "runs" / "micro"
    assert [path.name for path in list_states(directory)] == ["step-00000002", "step-00000003"]
    history = json.loads((directory / "step-00000003" / "state.json").read_text())["history"]
    assert [report["step"] for report in history] == [1, 2, 3]
    with Image.open(directory / "loss.png") as picture:
        assert picture.format == "PNG"
    answer = run("generate", "--model", tmp_path / "model", "--prompt", "Hi", "--max-tokens", 2, "--json")
    assert answer.code == 0 and json.loads(answer.out)["usage"]["total_tokens"] > 0


def test_the_recipe_of_the_built_in_model_trains_from_any_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("train", TINY, "--steps", 1, "--output", "here")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in list_states(tmp_path / "here" / "tiny")] == ["step-00000001"]


def test_ctrl_c_ends_it_after_the_step_in_hand_with_a_checkpoint(
    spawn: Callable[..., subprocess.Popen[str]], recipe_file: Path, tmp_path: Path
) -> None:
    process = spawn("train", recipe_file)
    assert process.stderr is not None
    for line in process.stderr:  # a line comes at once, and then now and then
        if "loss" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 0, rest
    (state,) = list_states(tmp_path / "runs" / "micro")
    step = json.loads((state / "state.json").read_text())["progress"]["step"]
    assert 1 <= step < 50
    assert f"step {step} of 50; checkpoint and loss.png in" in rest and "interrupted" in rest


def test_fresh_refuses_to_continue(run: Run, refused: Callable[..., str], recipe_file: Path) -> None:
    assert run("train", recipe_file, "--steps", 1, "--fresh").code == 0
    assert "the run exists already" in refused("train", recipe_file, "--fresh")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 3", "sede: 3", "micro.yaml: sede: is no field of a recipe. Fix: did you mean seed?"),
        ("tokens: 25600", "tokens: lots", "micro.yaml: tokens: has a wrong value; found 'lots'"),
        ("tokens: 25600", "tokens: 3", "tokens 3 is less than one step of 512"),
        ("hidden_size: 32", "hidden_size: wide", "micro.yaml: model"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line_naming_file_and_field(
    refused: Callable[..., str], recipe_file: Path, old: str, new: str, expected: str
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace(old, new, 1))
    assert expected in refused("train", recipe_file)


def test_an_output_that_cannot_be_written_is_said_at_once(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = run("train", recipe_file, "--output", tmp_path / "file")
    assert outcome.code == 2
    assert "cannot be written" in outcome.err.splitlines()[-1] and "Traceback" not in outcome.err
