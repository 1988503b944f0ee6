"""Checkpoints of a run: weights, optimizer moments and counters, written aside and renamed, so that a run killed at any
moment resumes from the last whole one. Tensors are safetensors in float32, the rest is JSON; nothing is pickled.

    run/step-00000200/weights.safetensors      the model, by parameter name
                      optimizer.safetensors    AdamW's moments, `<parameter>.exp_avg` and so on
                      state.json               progress, history of the losses, the model's config
    run/.writing-00000400/                     being written, or left behind by a process that was killed
    run/.lock                                  held by the process that trains the run
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.models.config import ModelConfig
from deepseek.models.transformer import Model

Report = dict[str, float]
"""What one training step tells: step, tokens, loss, ... (see `Trainer`)."""

_WHOLE, _ASIDE = "step-", ".writing-"
_OTHER_RECIPE = "use the recipe the run began with, or give this one another name"


@dataclass
class Progress:
    """Where a run is: optimizer steps done, tokens seen, and the index of the next sample (the data's only state)."""

    step: int = 0
    tokens: int = 0
    next_sample: int = 0


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep other processes from training the same run. Makes the directory; its lock goes when the process does.

    Raises ConfigError when another process trains it, CheckpointError when the directory cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise CheckpointError(
            "cannot be written", where=run, found=error.strerror or error, fix="choose another output directory"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another process trains this run", where=run, fix="wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def save_state(
    run: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    history: Sequence[Report],
    keep: int,
) -> Path:
    """Write `run/step-N` unless it is there already, then drop all but the newest `keep`.

    Raises CheckpointError when the disk refuses; the checkpoints before stay.
    """
    final = run / f"{_WHOLE}{progress.step:08d}"
    aside = run / f"{_ASIDE}{progress.step:08d}"
    state = {"progress": asdict(progress), "history": list(history), "model": model.config.to_hf()}
    try:
        for left_over in run.glob(f"{_ASIDE}*"):
            shutil.rmtree(left_over)
        if not final.exists():  # a step's state never changes, and replacing a directory is not atomic
            aside.mkdir(parents=True)
            weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
            save_file(weights, aside / "weights.safetensors")
            save_file(_moments(model, optimizer), aside / "optimizer.safetensors")
            (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
            for path in (*aside.iterdir(), aside):  # all of it is on the disk before it gets its name
                _sync(path)
            os.rename(aside, final)
            _sync(run)
        for old in list_states(run)[:-keep]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            "cannot be written", where=final, found=error, fix="free space; the last whole checkpoint is kept"
        ) from error
    return final


def list_states(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [path for path in run.glob(f"{_WHOLE}*") if path.name.removeprefix(_WHOLE).isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_WHOLE)))


def load_state(path: Path, model: Model, optimizer: torch.optim.Optimizer) -> tuple[Progress, list[Report]]:
    """Restore model and optimizer in place; returns progress and history.

    Raises CheckpointError when the files are damaged or belong to another model; nothing has been changed then.
    """
    try:
        saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
        progress, history = Progress(**saved["progress"]), list(saved["history"])
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimizer.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            "cannot be read", where=path, found=error, fix="remove it to resume from the checkpoint before"
        ) from error
    _check_model(path, model, saved.get("model"), weights)
    state: dict[Tensor, Any] = {}
    for name, parameter in model.named_parameters():
        own = {key: moments.pop(f"{name}.{key}", None) for key in ("step", "exp_avg", "exp_avg_sq")}
        present = {key: tensor.clone() for key, tensor in own.items() if tensor is not None}
        if not present:
            continue  # it never had a gradient
        if len(present) < len(own) or {present[key].shape for key in ("exp_avg", "exp_avg_sq")} != {parameter.shape}:
            raise CheckpointError("has no fitting moments", where=path / "optimizer.safetensors", found=name)
        state[parameter] = present
    if moments:
        raise CheckpointError(
            "belongs to another model", where=path / "optimizer.safetensors", found=min(moments), fix=_OTHER_RECIPE
        )
    model.load_state_dict(weights)
    optimizer.state.clear()
    optimizer.state.update(state)
    return progress, history


def load_weights(path: Path, model: Model) -> None:
    """Fill the model alone, to export or score it. Raises CheckpointError as `load_state` does."""
    try:
        weights = load_file(path / "weights.safetensors")
        saved = json.loads((path / "state.json").read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise CheckpointError("cannot be read", where=path, found=error) from error
    _check_model(path, model, saved, weights)
    model.load_state_dict(weights)


def _check_model(path: Path, model: Model, saved: dict[str, Any] | None, weights: dict[str, Tensor]) -> None:
    """Refuse another model's checkpoint: other tensors, or the same ones computed with differently."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if odd:
        raise CheckpointError("belongs to another model", where=path, found=odd[0], fix=_OTHER_RECIPE)
    if saved is not None and ModelConfig.from_hf(saved, where=str(path / "state.json")) != model.config:
        now = model.config.to_hf()
        field = next((key for key in now if now[key] != saved.get(key)), "another config")
        raise CheckpointError(
            f"was trained with another model.{field}",
            where=path,
            found=now.get(field),
            expected=saved.get(field),
            fix=_OTHER_RECIPE,
        )


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
