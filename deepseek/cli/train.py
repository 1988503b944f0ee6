"""`deepseek train`: run a recipe with a progress bar, draw its loss, export the result."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from deepseek.cli.progress import Ticker
from deepseek.cli.screen import print_line
from deepseek.core.errors import ConfigError
from deepseek.models.locate import locate
from deepseek.training.export import export_run
from deepseek.training.plot import plot_losses
from deepseek.training.recipe import Recipe
from deepseek.training.source import CurriculumSource
from deepseek.training.state import Report
from deepseek.training.trainer import Trainer


def run(
    recipe_file: Path, *, steps: int | None, output: str | None, fresh: bool, export: Path | None, fp8: bool
) -> None:
    """Train, or go on training. Ctrl-C ends after the step in hand, with a checkpoint."""
    screen = Console(stderr=True)
    recipe = Recipe.from_file(recipe_file)
    if output is not None:
        recipe = recipe.model_copy(update={"output": output})
    tokenizer_file = locate(recipe.data.tokenizer) / "tokenizer.json"
    if not tokenizer_file.exists():
        raise ConfigError("no such tokenizer", where=f"{recipe_file}: data.tokenizer", found=tokenizer_file)
    data = recipe.data
    trainer = Trainer(recipe, CurriculumSource(tokenizer_file, data.seed, data.max_length, data.course), fresh=fresh)
    first, total = trainer.progress.step, recipe.total_steps
    last = total if steps is None else min(total, first + steps)
    print_line(screen, describe(trainer))
    try:
        with Ticker(screen, last, first) as ticker:

            def show(report: Report) -> None:
                rate = f"{report['tokens_per_s']:,.0f} tokens/s"
                ticker.update(int(report["step"]), f"loss {report['loss']:.3f}  {rate}")

            trainer.train(show, steps)
    finally:
        if trainer.history and trainer.run.is_dir():  # a run that diverged is one whose curve one wants to see
            plot_losses(trainer.history, trainer.run / "loss.png", recipe.name)
    print_line(screen, f"step {trainer.progress.step} of {total}; checkpoint and loss.png in {trainer.run}")
    if trainer.progress.step < total:
        why = "interrupted; " if trainer.interrupted else ""
        print_line(screen, f"{why}the same command goes on from here")
    if export is not None:
        export_run(recipe, export, fp8=fp8)
        print_line(screen, f"model written to {export}: deepseek serve --model {export}")


def describe(trainer: Trainer) -> str:
    """What is about to be trained, in one line."""
    recipe = trainer.recipe
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    dtype = str(trainer.model.compute_dtype or "torch.float32").removeprefix("torch.")
    return (
        f"{recipe.name}: {parameters / 1e6:.1f} M parameters, {recipe.total_steps} steps of {recipe.tokens_per_step} "
        f"tokens, {dtype}, from step {trainer.progress.step}"
    )
