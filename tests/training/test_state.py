"""A checkpoint is whole or not there, fits its model or is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import deepseek.training.state as state_module
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.models.transformer import Model
from deepseek.training.state import Progress, hold, list_states, load_state, save_state
from deepseek.training.trainer import build_adamw
from tests.training import micro


def fresh(seed: int = 0, **changes: object) -> tuple[Model, torch.optim.AdamW]:
    recipe = micro.recipe(model=changes)
    model = Model(recipe.model_config_of()).initialize(seed)
    return model, build_adamw(model, recipe.optimizer)


@pytest.fixture(scope="module")
def trained() -> tuple[Model, torch.optim.AdamW]:
    model, optimizer = fresh(1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def save(run: Path, trained: tuple[Model, torch.optim.AdamW], step: int, keep: int = 2) -> Path:
    return save_state(run, *trained, Progress(step, 100 * step, 7 * step), [{"step": step, "loss": 2.5}], keep)


def in_child(act: Callable[[], None]) -> int:
    """Do something in a process of its own; returns its exit code, negative for the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]) -> None:
    path = save(tmp_path, trained, 12)
    model, optimizer = fresh(2)
    progress, history = load_state(path, model, optimizer)
    assert (progress, history) == (Progress(12, 1200, 84), [{"step": 12, "loss": 2.5}])
    for (name, own), saved in zip(model.state_dict().items(), trained[0].state_dict().values(), strict=True):
        assert torch.equal(own, saved), name
    for own, saved in zip(model.parameters(), trained[0].parameters(), strict=True):
        for key, value in trained[1].state[saved].items():
            assert torch.equal(optimizer.state[own][key], value), key


def test_only_the_newest_are_kept(tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]) -> None:
    for step in (9, 10, 100_000_000, 11):
        save(tmp_path, trained, step, keep=3)
    assert [path.name for path in list_states(tmp_path)] == ["step-00000010", "step-00000011", "step-100000000"]


def test_what_a_killed_process_left_is_no_checkpoint_and_is_cleared_away(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]
) -> None:
    whole = save(tmp_path, trained, 1)
    torn = tmp_path / ".writing-00000002"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes((whole / "weights.safetensors").read_bytes()[:100])
    assert list_states(tmp_path) == [whole]
    load_state(whole, *fresh())
    save(tmp_path, trained, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_process_killed_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]
) -> None:
    whole = save(tmp_path, trained, 1)

    def killed_before_the_rename() -> None:
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        save(tmp_path, trained, 2)

    assert in_child(killed_before_the_rename) == -signal.SIGKILL
    assert names(tmp_path) == [".writing-00000002", "step-00000001"] and list_states(tmp_path) == [whole]
    load_state(whole, *fresh())


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(state_module, "_sync", lambda path: done.append(f"sync {path.name}"))
    rename = os.rename
    monkeypatch.setattr(
        state_module.os, "rename", lambda old, new: (done.append(f"rename {Path(new).name}"), rename(old, new))
    )
    save(tmp_path, trained, 4)
    assert sorted(done[:3]) == ["sync optimizer.safetensors", "sync state.json", "sync weights.safetensors"]
    assert done[3:] == ["sync .writing-00000004", "rename step-00000004", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("torn", ["weights", "optimizer", "state"])
def test_a_full_disk_is_said_and_the_checkpoint_before_stays(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW], torn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = save(tmp_path, trained, 1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write, write_text = state_module.save_file, Path.write_text

    def save_file(tensors: dict[str, torch.Tensor], file: Path) -> None:
        write(tensors, file)
        if file.stem == torn:
            raise full

    def text(self: Path, *args: str, **kwargs: str) -> int:
        if torn == "state":
            raise full
        return write_text(self, *args, **kwargs)

    monkeypatch.setattr(state_module, "save_file", save_file)
    monkeypatch.setattr(Path, "write_text", text)
    with pytest.raises(CheckpointError, match=r"step-00000002: cannot be written; found .*No space left"):
        save(tmp_path, trained, 2)
    assert names(tmp_path) == ["step-00000001"]
    load_state(whole, *fresh())


def test_a_real_write_limit_is_a_clear_error_too(tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]) -> None:
    said = tmp_path.parent / "said"

    def out_of_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save(tmp_path, trained, 2)
        except CheckpointError as error:
            said.write_text(str(error))

    assert in_child(out_of_room) == 0
    assert "step-00000002: cannot be written" in said.read_text() and names(tmp_path) == []


@pytest.mark.parametrize("changes", [{"hidden_size": 40}, {"num_hidden_layers": 3}, {"rope_theta": 5e5}])
def test_the_checkpoint_of_another_model_is_refused_and_nothing_is_changed(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW], changes: dict[str, object]
) -> None:
    path = save(tmp_path, trained, 1)
    model, optimizer = fresh(3, **changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="another model"):
        load_state(path, model, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not optimizer.state


def test_a_checkpoint_that_does_not_name_its_model_is_loaded_by_its_tensors(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW]
) -> None:
    path = save(tmp_path, trained, 1)
    raw = json.loads((path / "state.json").read_text())
    del raw["model"]
    (path / "state.json").write_text(json.dumps(raw))
    assert load_state(path, *fresh())[0].step == 1


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_said(
    tmp_path: Path, trained: tuple[Model, torch.optim.AdamW], file: str, damage: str
) -> None:
    path = save(tmp_path, trained, 1)
    target = path / file
    target.write_bytes(target.read_bytes()[:50]) if damage == "cut" else target.unlink()
    with pytest.raises(CheckpointError, match="step-00000001: cannot be read"):
        load_state(path, *fresh())


def test_a_run_has_one_trainer_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(ConfigError, match="another process trains this run"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"), hold(tmp_path / "file" / "run"):
        pass
