"""What the commands print with: rows of name and value, and lines that are never cut or taken for markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from deepseek.models.quantize import WeightSize
    from deepseek.models.transformer import Quantization

Rows = Sequence[tuple[str, str]]


def print_rows(screen: Console, rows: Rows) -> None:
    """Names in one column, values in the next. Values wrap where the terminal does, and nowhere in a pipe or a log."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        screen.print(Text(name.ljust(width), style="dim") + Text(value), soft_wrap=True)


def print_line(screen: Console, line: str, style: str = "") -> None:
    """One line as it is: paths and names may contain anything."""
    screen.print(Text(line, style=style), soft_wrap=True)


def describe_weights(quantization: Quantization, size: WeightSize) -> str:
    """One line: what the weights are stored as, and what they take."""
    form = "stored form" if quantization == "none" else quantization
    return f"{form}, {size.nbytes / 2**20:.1f} MiB, {size.bits_per_weight:.2f} bits a weight"
