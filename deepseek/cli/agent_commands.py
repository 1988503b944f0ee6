"""`deepseek agent` and its options. What it does stands in `agent`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run an agent of a config.yaml.", no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="The agent's config.yaml.")]
Yes = Annotated[bool, typer.Option("--yes", help="Allow every call that a person would be asked about.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object: answer, calls, steps, tokens.")]
Tenant = Annotated[str, typer.Option(help="In whose name it runs: whose memory, files and database.")]
Conversation = Annotated[
    str | None, typer.Option(help="A name under which what is said is remembered, and taken up again.")
]


@app.command()
def run(
    config: Config,
    question: Annotated[str, typer.Argument(help="What is asked; - reads it from standard input.")],
    attach: Annotated[
        list[Path] | None, typer.Option(help="A file that belongs to the question; may be repeated.")
    ] = None,
    perceiver: Annotated[
        list[str] | None,
        typer.Option(help="What makes text of files the model cannot take: whisper, ocr; may be repeated."),
    ] = None,
    conversation: Conversation = None,
    yes: Yes = False,
    tenant: Tenant = "local",
    json_output: Json = False,
) -> int:
    """Ask an agent once. Exit code 0: there is an answer; 1: a limit stopped it; 3: it waits for a person."""
    from deepseek.cli.agent import run as run_agent

    return run_agent(
        config,
        question,
        files=attach or (),
        perceivers=perceiver or (),
        conversation=conversation,
        yes=yes,
        tenant=tenant,
        json_output=json_output,
    )


@app.command()
def resume(
    config: Config,
    run_id: Annotated[str, typer.Argument(help="The run that waits for a person.")],
    yes: Yes = False,
    tenant: Tenant = "local",
    json_output: Json = False,
) -> int:
    """Go on with a run that waits for a person's consent."""
    from deepseek.cli.agent import resume as resume_agent

    return resume_agent(config, run_id, yes=yes, tenant=tenant, json_output=json_output)


@app.command()
def chat(
    config: Config,
    conversation: Conversation = None,
    yes: Yes = False,
    tenant: Tenant = "local",
) -> None:
    """Talk to an agent in the terminal. An empty line or Ctrl-D ends; /reset begins anew."""
    from deepseek.cli.agent import chat as chat_with_agent

    chat_with_agent(config, conversation=conversation, yes=yes, tenant=tenant)
