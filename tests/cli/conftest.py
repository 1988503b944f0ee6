"""What the command-line tests share: a small checkpoint with the built-in tokenizer, and ways to run a command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from deepseek.cli import main
from deepseek.models.checkpoint import save_model
from deepseek.models.locate import builtin_dir
from deepseek.models.transformer import Model
from tests.training import micro


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the control database of whoever runs it. Returns the place of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "deepseek" / "control.db"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: its exit code and what it printed. Anything but SystemExit is a failure."""

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must end in one line on stderr and exit code 2; returns the line."""

    def call(*args: object) -> str:
        outcome = run(*args)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert outcome.err.startswith("deepseek: ") and outcome.err.count("\n") == 1, outcome.err
        return outcome.err.strip()

    return call


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `deepseek ARGS` as a process of its own, in an empty directory; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from deepseek.cli import main; main()", *map(str, args)]
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root, "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint that loads in no time and knows the built-in tokenizer and chat template."""
    directory = tmp_path_factory.mktemp("checkpoint") / "small-model"
    recipe = micro.recipe(model={"vocab_size": 4096, "eos_token_id": 1, "bos_token_id": 0})
    save_model(Model(recipe.model_config_of()).initialize(5, std=0.3), directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(builtin_dir() / name, directory / name)
    return directory


@pytest.fixture(scope="session")
def adapter_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for that checkpoint, in PEFT's form, that changes what it says."""
    directory = tmp_path_factory.mktemp("adapter")
    rank = 2
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8 * rank, "target_modules": ["o_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, weight in load_file(model_dir / "model.safetensors").items():
        if name.endswith(".o_proj.weight") and "layers.2." not in name:  # the draft layer is no part of it
            base = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=generator)
            tensors[f"{base}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=generator)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe of 50 short steps on the built-in curriculum."""
    raw = micro.fields(
        tmp_path / "runs",
        tokens=25600,
        tokens_per_step=512,
        model={"vocab_size": 4096, "max_position_embeddings": 256},
        data={"max_length": 256},
    )
    file = tmp_path / "micro.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return file
