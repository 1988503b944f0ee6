"""A recipe is checked whole before anything is trained, and a mistake in it is one line naming file and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deepseek.core.errors import ConfigError
from deepseek.training.recipe import Recipe
from tests.training import micro

TINY = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


def refused(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.from_file(file)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    return message.replace(str(file), "run.yaml")


def test_the_recipe_of_the_built_in_model_is_read() -> None:
    recipe = Recipe.from_file(TINY)
    assert recipe.total_steps == 5127
    assert recipe.model_config_of().num_nextn_predict_layers == 1


def test_the_recipe_that_goes_on_with_the_built_in_model_has_its_shape() -> None:
    recipe, first = (Recipe.from_file(file) for file in (TINY.with_name("tiny-agent.yaml"), TINY))
    assert recipe.init_from == "builtin" and recipe.data.course == "agent"
    assert recipe.model == first.model
    assert recipe.tokens >= 60_000_000 and recipe.optimizer.lr < first.optimizer.lr / 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokns": 5}, "run.yaml: tokns: is no field of a recipe. Fix: did you mean tokens?"),
        ({"optimizer": {"momentum": 1}}, "run.yaml: optimizer.momentum: is no field of a recipe. Fix: remove it"),
        (
            {"tokens": "many"},
            "run.yaml: tokens: has a wrong value; found 'many'; expected Input should be a valid integer",
        ),
        ({"tokens": True}, "run.yaml: tokens: has a wrong value; found True"),
        ({"tokens": 1.5}, "run.yaml: tokens: has a wrong value; found 1.5"),
        ({"tokens": -1}, "run.yaml: tokens: has a wrong value; found -1; expected Input should be greater than 0"),
        ({"optimizer": {"lr": float("nan")}}, "run.yaml: optimizer.lr: has a wrong value; found nan"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "run.yaml: optimizer: betas [0.9, 1.0] must be at least 0"),
        ({"compute_dtype": "float8"}, "run.yaml: compute_dtype: has a wrong value; found 'float8'; expected"),
        ({"name": ".."}, "run.yaml: name: has a wrong value; found '..'"),
        ({"tokens": 100}, "run.yaml: tokens 100 is less than one step of 128"),
        ({"data": {"max_length": 500}}, "run.yaml: data.max_length 500 exceeds tokens_per_step 128"),
        ({"data": {"max_length": 100}}, "run.yaml: data.max_length: is longer than the model's context; found 100"),
        (
            {"optimizer": {"warmup_steps": 50}},
            "run.yaml: optimizer.warmup_steps 50 leaves nothing of the run's 50 steps",
        ),
        ({"model": {"hidden_size": "wide"}}, "run.yaml: model"),
        ({"model": {"colour": "red"}}, "run.yaml: model"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(tmp_path, yaml.safe_dump(micro.fields(**changes)))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    raw = micro.fields()
    del raw["model"]
    assert "run.yaml: model: is missing" in refused(tmp_path, yaml.safe_dump(raw))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "is no mapping of fields; found list"),
        ("", "is no mapping of fields; found NoneType"),
        ("name: [\n", "cannot be read as YAML"),
        ("name: one\nname: two\n", "name is given twice"),
        ("name: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
    ],
)
def test_what_is_no_recipe_at_all_is_said(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        Recipe.from_file(tmp_path / "none.yaml")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    text = yaml.safe_dump(micro.fields()).replace("lr: 0.01", "lr: 1e-2\n  eps: 2E-9")
    file.write_text(text.replace("model:", "model:\n  rms_norm_eps: 1e-5"), encoding="utf-8")
    recipe = Recipe.from_file(file)
    assert (recipe.optimizer.lr, recipe.optimizer.eps, recipe.model["rms_norm_eps"]) == (0.01, 2e-9, 1e-5)
