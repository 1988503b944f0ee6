"""`deepseek mcp serve` and its options. What it does stands in `mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Tools for other programs, by the Model Context Protocol.", no_args_is_help=True)


@app.callback()
def mcp() -> None:
    """Keeps `serve` a command of its own."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Argument(help="An agent's config.yaml, whose tools are served.")] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in tool, or a group of them; may be repeated. Default: those of the built-in model."
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="Serve over HTTP at HOST:PORT, path /mcp, in place of standard input and output."),
    ] = None,
    tenant: Annotated[str, typer.Option(help="In whose name the tools are called.")] = "local",
) -> None:
    """Serve tools over standard input and output, or HTTP. Over HTTP clients send DEEPSEEK_MCP_KEY, if it is set, as
    "Authorization: Bearer"; other machines are served only with it."""
    from deepseek.cli.mcp import run

    run(config, tool or (), http=http, tenant=tenant)
