"""`deepseek doctor`: what this machine offers, what is in use, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console

from deepseek import kernels
from deepseek.cli.screen import print_rows
from deepseek.core.memory import available_bytes
from deepseek.models.locate import builtin_dir
from deepseek.training.trainer import resolve_compute_dtype

_PACKAGES = ("torch", "safetensors", "tokenizers", "numpy", "fastapi", "uvicorn", "pydantic")


def run() -> None:
    """Print one row a fact. Builds the kernels if they have not been built yet."""
    weights = builtin_dir() / "model.safetensors"
    training_dtype = resolve_compute_dtype("auto") or torch.float32
    rows = [
        ("deepseek-stack", _version("deepseek-stack")),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((name, _version(name)) for name in _PACKAGES),
        ("cores", str(os.cpu_count())),
        ("memory", f"{available_bytes() / 2**30:.1f} GiB available"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none (computing on the CPU)"),
        ("C++ compiler", shutil.which("g++") or shutil.which("c++") or "none: kernels fall back to torch"),
        *((f"kernels: {key}", str(value)) for key, value in kernels.describe().items()),
        ("kernels: instruction sets", _instruction_sets()),
        ("training multiplies in", str(training_dtype).removeprefix("torch.")),
        ("built-in model", f"{weights.stat().st_size / 2**20:.1f} MiB" if weights.exists() else "missing"),
    ]
    print_rows(Console(), rows)


def _instruction_sets() -> str:
    refused = [f"{name} (refused: it computes other bits than it must)" for name in kernels.refused_isas()]
    return ", ".join(kernels.available_isas() + refused) or "torch's own choice"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing: run make install"
