"""From a run's checkpoint to a Hugging Face checkpoint that anything can load."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from deepseek.core.errors import CheckpointError
from deepseek.models.checkpoint import save_model
from deepseek.models.locate import locate
from deepseek.models.transformer import Model
from deepseek.training.recipe import Recipe
from deepseek.training.state import list_states, load_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def export_run(recipe: Recipe, target: Path, *, fp8: bool = True) -> Path:
    """Write the newest checkpoint of a run to `target`, with the tokenizer it was trained with.

    fp8: projections in 128x128 blocks of e4m3 and the rest in bfloat16, else everything in float32. Returns the
    checkpoint it came from. Raises CheckpointError.
    """
    run = Path(recipe.output) / recipe.name
    states = list_states(run)
    if not states:
        raise CheckpointError("has no checkpoint yet", where=run, fix="train it first")
    model = Model(recipe.model_config_of())
    load_weights(states[-1], model)
    if fp8:
        save_model(model, target, dtype=torch.bfloat16, fp8_blocks=True)
    else:
        save_model(model, target)
    try:
        _copy_tokenizer(locate(recipe.data.tokenizer), target)
    except OSError as error:
        raise CheckpointError("cannot be written", where=target, found=error, fix="free space") from error
    return states[-1]


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        file = source / name
        if file.exists() and file.resolve() != (target / name).resolve():
            shutil.copyfile(file, target / name)
