"""An exported run is a checkpoint that serves: the weights trained, with the tokenizer they were trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepseek.core.errors import CheckpointError
from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed
from deepseek.models.locate import builtin_dir
from deepseek.training.export import TOKENIZER_FILES, export_run
from deepseek.training.recipe import Recipe
from deepseek.training.trainer import Trainer
from tests.training import micro
from tests.training.micro import Counting


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Trainer]:
    recipe = micro.recipe(tmp_path_factory.mktemp("run"))
    trainer = Trainer(recipe, Counting())
    trainer.train(lambda report: None, 2)
    return recipe, trainer


def test_in_float32_the_export_computes_what_the_trained_model_does(
    tmp_path: Path, run: tuple[Recipe, Trainer]
) -> None:
    recipe, trainer = run
    assert export_run(recipe, tmp_path / "out", fp8=False) == trainer.run / "step-00000002"
    model = load_model(tmp_path / "out", packed=False)
    tokens, context = torch.arange(20), Packed.of([20])
    with torch.no_grad():
        assert torch.equal(model(tokens, context), trainer.model(tokens, context))
        next_ids = tokens.roll(-1)
        hidden = model(tokens, context)
        assert torch.equal(model.draft(hidden, next_ids, context), trainer.model.draft(hidden, next_ids, context))


def test_in_fp8_it_stays_close(tmp_path: Path, run: tuple[Recipe, Trainer]) -> None:
    recipe, trainer = run
    export_run(recipe, tmp_path / "out")
    tokens, context = torch.arange(20), Packed.of([20])
    with torch.no_grad():
        own = load_model(tmp_path / "out", packed=False)(tokens, context)
        trained = trainer.model(tokens, context)
    assert 0 < (own - trained).norm() < 0.1 * trained.norm()


def test_the_tokenizer_of_the_recipe_comes_along(tmp_path: Path, run: tuple[Recipe, Trainer]) -> None:
    own = tmp_path / "tokenizer"
    own.mkdir()
    (own / "tokenizer.json").write_text("{}")
    recipe = run[0].model_copy(update={"data": run[0].data.model_copy(update={"tokenizer": str(own)})})
    export_run(recipe, tmp_path / "mine", fp8=False)
    export_run(run[0], tmp_path / "builtin", fp8=False)
    assert (tmp_path / "mine" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "mine" / "chat_template.jinja").exists()
    for name in TOKENIZER_FILES[:3]:
        assert (tmp_path / "builtin" / name).read_bytes() == (builtin_dir() / name).read_bytes()


def test_a_run_without_a_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export_run(micro.recipe(tmp_path), tmp_path / "out")


def test_a_damaged_checkpoint_is_said(tmp_path: Path) -> None:
    path = tmp_path / "micro" / "step-00000001"
    path.mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="step-00000001: cannot be read"):
        export_run(micro.recipe(tmp_path), tmp_path / "out")
