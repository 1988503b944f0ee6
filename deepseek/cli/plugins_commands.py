"""`deepseek plugins list` and its options. What it does stands in `plugins`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepseek.cli.options import Config

app = typer.Typer(help="Which plugins there are, and which are configured.", no_args_is_help=True)


@app.callback()
def plugins() -> None:
    """Keeps `list` a command of its own."""


@app.command("list")
def list_plugins(
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object a plugin.")] = False,
    config: Config = None,
) -> None:
    """List plugins: those a configuration has, in the order they are called, then those it could have."""
    from deepseek.cli.plugins import show

    show(config, json_output=json_output)
