"""The commands and their options. What they do stands in one file each and is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from deepseek.core.errors import ConfigError

app = typer.Typer(
    name="deepseek",
    help="Train, serve and try DeepSeek-architecture language models.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def run_command(args: Sequence[str]) -> int:
    """Parse and run; returns the exit code. A usage mistake raises ConfigError instead of printing a page of usage."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(args), prog_name="deepseek", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except TyperException as error:
        context = getattr(error, "ctx", None)
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        name = context.command_path if context else "deepseek"
        raise ConfigError(message.strip().rstrip("."), fix=f"see {name} --help") from None
    return code if isinstance(code, int) else 0


Model = Annotated[str, typer.Option(help='"builtin", a checkpoint directory, or a Hugging Face hub id.')]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of prompt and completion together; default: the model's.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that reach this probability.")]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"deepseek-stack {installed_version('deepseek-stack')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.command()
def serve(
    model: Model = "builtin",
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Names clients may ask for; default: the model's own.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    max_model_len: MaxLength = None,
    kv_bytes: Annotated[int | None, typer.Option(help="Bytes of the key-value cache.")] = None,
    max_sequences: Annotated[int, typer.Option(help="Sequences computed together.")] = 64,
    grace: Annotated[float, typer.Option(help="Seconds running requests get when the server is stopped.")] = 30.0,
) -> None:
    """Serve a model over HTTP, with the playground page at /."""
    from deepseek.cli.serve import run
    from deepseek.engine.build import EngineOptions

    options = EngineOptions(
        max_model_len=max_model_len,
        kv_bytes=kv_bytes,
        max_sequences=max_sequences,
        max_tokens_per_step=max(512, max_sequences),
    )
    run(model, options, names=served_model_name, host=host, port=port, grace_s=grace)


@app.command()
def generate(
    model: Model = "builtin",
    prompt: Annotated[str | None, typer.Option(help="Text to complete.")] = None,
    prompt_ids: Annotated[str | None, typer.Option(help="Token ids to complete: 1,2,3.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 256,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the output; may be repeated.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end of the sequence.")] = False,
    max_model_len: MaxLength = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Complete one prompt and exit."""
    from deepseek.cli.generate import run
    from deepseek.core.sampling import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=tuple(stop or ()),
        ignore_eos=ignore_eos,
    )
    run(model, prompt, prompt_ids, params, max_model_len=max_model_len, json_output=json_output)


@app.command()
def chat(
    model: Model = "builtin",
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer may take.")] = 256,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = None,
    max_model_len: MaxLength = None,
) -> None:
    """Talk to a model in the terminal. An empty line or Ctrl-D ends; /reset forgets the conversation."""
    from deepseek.cli.chat import run
    from deepseek.core.sampling import SamplingParams

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    run(model, system, params, max_model_len=max_model_len)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/tiny.yaml.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps; continue later.")] = None,
    output: Annotated[str | None, typer.Option(help="Directory of runs, instead of the recipe's.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Refuse to continue a run that exists.")] = False,
    export: Annotated[Path | None, typer.Option(help="Afterwards write the model here, in Hugging Face form.")] = None,
    fp8: Annotated[bool, typer.Option(help="Export projections as FP8 128x128 blocks, the rest as bfloat16.")] = True,
) -> None:
    """Train a model from a recipe; continues where the run stopped."""
    from deepseek.cli.train import run

    run(recipe, steps=steps, output=output, fresh=fresh, export=export, fp8=fp8)


@app.command()
def evaluate(
    model: Model = "builtin",
    draws: Annotated[int, typer.Option(min=1, help="Questions a family and kind of phrasing.")] = 400,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed asks other questions.")] = 0,
    failures: Annotated[int, typer.Option(min=0, help="Wrong answers to show of each family.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a model held-out questions of the built-in curriculum, with seen and withheld phrasings."""
    from deepseek.cli.evaluate import run

    run(model, draws=draws, families=family or (), seed=seed, failures=failures, json_output=json_output)


@app.command()
def doctor() -> None:
    """Show what this machine offers and what deepseek makes of it."""
    from deepseek.cli.doctor import run

    run()
