"""Options that several commands share, and the reading of those whose value has parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from deepseek.core.errors import ConfigError

Model = Annotated[str, typer.Option(help='"builtin", a checkpoint directory, or a Hugging Face hub id.')]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of prompt and completion together; default: the model's.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that reach this probability.")]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Quantization = Annotated[
    Literal["none", "int8", "int4", "auto"],
    typer.Option(help="Form of the weights; auto takes the first of none, int8 and int4 that fits into memory."),
]
QuantizationCache = Annotated[
    Path | None, typer.Option(help="Directory where quantised weights are kept for next time.")
]
Speculation = Annotated[
    Literal["off", "ngram", "mtp", "auto"],
    typer.Option(help="Where guesses at the next tokens come from; auto guesses while it pays. Never changes a token."),
]
Database = Annotated[
    str | None, typer.Option(help="The control database: a file or postgresql://host/name; default: this user's own.")
]
Config = Annotated[Path | None, typer.Option(help="The configuration of tiers, tenants and budgets: a YAML file.")]
DraftTokens = Annotated[int, typer.Option(min=0, max=64, help="Guesses a sequence gets in a step, at most.")]


def parse_adapters(given: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """`name=path` each, to path by name. Raises ConfigError, also for a name that is in `taken` or given twice."""
    adapters: dict[str, str] = {}
    for text in given:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ConfigError("not an adapter", where="--adapter", found=repr(text), expected="name=path")
        if name in taken or name in adapters:
            raise ConfigError("this name is taken", where="--adapter", found=repr(name), expected="another name")
        adapters[name] = path
    return adapters
