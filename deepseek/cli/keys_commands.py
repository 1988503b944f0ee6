"""`deepseek keys create | list | rotate | revoke` and their options. What they do stands in `keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepseek.cli.options import Config, Database

app = typer.Typer(help="Make, list, rotate and revoke API keys; also beside a running server.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="The key's public id, as `deepseek keys list` shows it.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is; made with it, if new.")],
    tier: Annotated[str | None, typer.Option(help="basic, professional, enterprise, or one of your own.")] = None,
    name: Annotated[str, typer.Option(help="For people.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="read, infer or operate; may be repeated. Default: read and infer.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it may use, and no others; may be repeated. Default: its tenant's."),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="2027-01-31, 2027-01-31T12:00Z, or a while: 90d.")] = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make a key. It is printed this once."""
    from deepseek.cli.keys import Place
    from deepseek.cli.keys import create as run

    run(Place(config, database), tenant, tier, name=name, scopes=scope or (), models=model or (), expires=expires)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object a key.")] = False,
    database: Database = None,
    config: Config = None,
) -> None:
    """List keys, one a line, in the order they were made."""
    from deepseek.cli.keys import Place, show

    show(Place(config, database), tenant, json_output=json_output)


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old key is still good: 0s, 15m, 12h, 7d.")] = "1h",
    database: Database = None,
    config: Config = None,
) -> None:
    """Give a key a new text, printed this once; its id, tenant and budgets stay."""
    from deepseek.cli.keys import Place
    from deepseek.cli.keys import rotate as run

    run(Place(config, database), key_id, grace)


@app.command()
def revoke(key_id: KeyId, database: Database = None, config: Config = None) -> None:
    """End a key for good. Running servers follow within a second."""
    from deepseek.cli.keys import Place
    from deepseek.cli.keys import revoke as run

    run(Place(config, database), key_id)
