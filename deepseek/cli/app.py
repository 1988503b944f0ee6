"""The commands and their options. What they do stands in one file each and is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import TyperException

from deepseek.cli.agent_commands import app as agent_app
from deepseek.cli.keys_commands import app as keys_app
from deepseek.cli.mcp_commands import app as mcp_app
from deepseek.cli.options import (
    Config,
    Database,
    DraftTokens,
    MaxLength,
    MinP,
    Model,
    Quantization,
    QuantizationCache,
    Seed,
    Speculation,
    Temperature,
    TopK,
    TopP,
)
from deepseek.cli.plugins_commands import app as plugins_app
from deepseek.core.errors import ConfigError

app = typer.Typer(
    name="deepseek",
    help="Train, serve and try DeepSeek-architecture language models.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(keys_app, name="keys")
app.add_typer(plugins_app, name="plugins")
app.add_typer(agent_app, name="agent")
app.add_typer(mcp_app, name="mcp")


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
    kv_bytes: Annotated[int | None, typer.Option(min=1, help="Bytes of the key-value cache.")] = None,
    kv_fraction: Annotated[
        float | None, typer.Option(help="Instead: its share of the memory that is free beside the weights.")
    ] = None,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences computed together.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; others get status 429.")] = 1024,
    prefix_cache: Annotated[
        bool, typer.Option("--prefix-cache/--no-prefix-cache", help="Keep what prompts begin with in common.")
    ] = True,
    speculation: Speculation = "auto",
    draft_tokens: DraftTokens = 3,
    adapter: Annotated[
        list[str] | None, typer.Option(help="A LoRA adapter in PEFT form, as name=path; may be repeated.")
    ] = None,
    quantization: Quantization = "none",
    quantization_cache: QuantizationCache = None,
    grace: Annotated[float, typer.Option(help="Seconds running requests get when the server is stopped.")] = 30.0,
    config: Config = None,
    database: Database = None,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Ask for a key on loopback too, before the first one is made.")
    ] = False,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve gRPC too, on this port; 0 takes a free one.")
    ] = None,
) -> None:
    """Serve a model over HTTP, with the playground page at /."""
    from deepseek.cli.serve import run
    from deepseek.engine.build import EngineOptions

    options = EngineOptions(
        max_model_len=max_model_len,
        kv_bytes=kv_bytes,
        kv_fraction=kv_fraction,
        max_sequences=max_sequences,
        max_tokens_per_step=max(512, max_sequences),
        max_waiting=max_waiting,
        prefix_cache=prefix_cache,
        speculation=speculation,
        max_draft_tokens=draft_tokens,
        quantization=quantization,
        quantization_cache=quantization_cache,
    )
    run(
        model,
        options,
        names=served_model_name,
        adapters=adapter or (),
        host=host,
        port=port,
        grace_s=grace,
        config_file=config,
        database=database,
        require_keys=require_keys,
        grpc_port=grpc_port,
    )


@app.command()
def generate(
    model: Model = "builtin",
    prompt: Annotated[str | None, typer.Option(help="Text to complete.")] = None,
    prompt_ids: Annotated[str | None, typer.Option(help="Token ids to complete: 1,2,3.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens to generate at most; default: 256, or what the context leaves.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, max=64, help="Completions of the prompt.")] = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Against tokens of the output, each time; -2 to 2.")] = 0.0,
    presence_penalty: Annotated[float, typer.Option(help="Against tokens of the output, once; -2 to 2.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, against tokens of prompt and output.")] = 1.0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the output; may be repeated.")] = None,
    bad_word: Annotated[list[str] | None, typer.Option(help="A text not to generate; may be repeated.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end of the sequence.")] = False,
    json_schema: Annotated[Path | None, typer.Option(help="File of a JSON schema that the output must match.")] = None,
    regex: Annotated[str | None, typer.Option(help="Regular expression that the output must match.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="A text the output may be; may be repeated.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Directory of a LoRA adapter in PEFT form.")] = None,
    speculation: Speculation = "auto",
    draft_tokens: DraftTokens = 3,
    max_model_len: MaxLength = None,
    quantization: Quantization = "none",
    quantization_cache: QuantizationCache = None,
    logprobs: Annotated[
        int | None, typer.Option(min=0, max=20, help="With --json: score every token, with so many alternatives.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Complete one prompt and exit."""
    from deepseek.cli.generate import constraint_of, run
    from deepseek.core.sampling import SamplingParams
    from deepseek.engine.build import EngineOptions

    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        bad_words=tuple(bad_word or ()),
        ignore_eos=ignore_eos,
        logprobs=logprobs,
        n=n,
    )
    options = EngineOptions(
        max_model_len=max_model_len,
        max_sequences=n,
        speculation=speculation,
        max_draft_tokens=draft_tokens,
        quantization=quantization,
        quantization_cache=quantization_cache,
    )
    run(
        model,
        options,
        prompt,
        prompt_ids,
        params,
        max_tokens=max_tokens,
        constraint=constraint_of(json_schema, regex, choice or ()),
        adapter=adapter,
        json_output=json_output,
    )


@app.command()
def chat(
    model: Model = "builtin",
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer may take.")] = 256,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = None,
    max_model_len: MaxLength = None,
    quantization: Quantization = "none",
    quantization_cache: QuantizationCache = None,
) -> None:
    """Talk to a model in the terminal. An empty line or Ctrl-D ends; /reset forgets the conversation."""
    from deepseek.cli.chat import run
    from deepseek.core.sampling import SamplingParams
    from deepseek.engine.build import EngineOptions

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    options = EngineOptions(
        max_model_len=max_model_len,
        max_sequences=1,
        quantization=quantization,
        quantization_cache=quantization_cache,
    )
    run(model, options, system, params)


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
    agent: Annotated[bool, typer.Option("--agent", help="Ask an agent, which calls the tools it is given.")] = False,
    perplexity: Annotated[
        str | None,
        typer.Option(help='Measure perplexity on this text or .jsonl file, or "builtin", instead of asking questions.'),
    ] = None,
    compare: Annotated[
        Literal["none", "int8", "int4"] | None,
        typer.Option(help="With --perplexity: compare with the model in this form; none is the form it is stored in."),
    ] = None,
    context: Annotated[int | None, typer.Option(min=2, help="With --perplexity: tokens of a window.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="With --perplexity: tokens to score at most.")] = None,
    quantization: Quantization = "none",
    quantization_cache: QuantizationCache = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a model held-out questions of the built-in curriculum, or (--perplexity) let it predict a text."""
    if perplexity is not None:
        from deepseek.cli.perplexity import run as run_perplexity

        run_perplexity(
            model,
            perplexity,
            quantization=quantization,
            quantization_cache=quantization_cache,
            compare=compare,
            context=context,
            max_tokens=max_tokens,
            json_output=json_output,
        )
        return
    from deepseek.cli.evaluate import run

    run(
        model,
        draws=draws,
        families=family or (),
        seed=seed,
        failures=failures,
        agent=agent,
        quantization=quantization,
        quantization_cache=quantization_cache,
        json_output=json_output,
    )


@app.command()
def usage(
    since: Annotated[
        str | None, typer.Option(help="Of requests admitted from then on: 2026-11-24, or with a time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The end, not included.")] = None,
    by: Annotated[str, typer.Option(help="What to sum apart: some of tenant, key, model, day.")] = "day",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's, by its public id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    database: Annotated[str | None, typer.Option(help="The control database: a file or postgresql://...")] = None,
    config: Annotated[Path | None, typer.Option(help="The server's configuration, which names the database.")] = None,
) -> None:
    """Show what was used, from the ledger of the control database; also beside a running server."""
    from deepseek.cli.usage import run

    run(
        database,
        config,
        since=since,
        until=until,
        by=by,
        tenant=tenant,
        key=key,
        model=model,
        as_csv=as_csv,
    )


@app.command()
def index(
    path: Annotated[
        Path | None, typer.Argument(help="A file or folder: what changed is read again, what is gone is removed.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose documents.")] = "local",
    search: Annotated[str | None, typer.Option(help="Then show the passages that fit this question.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="With --search: passages to show.")] = 5,
    remove: Annotated[bool, typer.Option("--remove", help="Take the file or folder out.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="The data directory; default: $DEEPSEEK_DATA, or this user's own.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="Find by meaning too: an address up to /v1; its key is in $DEEPSEEK_EMBEDDINGS_KEY."),
    ] = None,
    embedding_model: Annotated[str, typer.Option(help="With --embeddings: the model to ask for.")] = "builtin",
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put documents into a tenant's index, for the retrieval plugin and the agent's tools."""
    from deepseek.cli.index import run

    run(
        path,
        tenant=tenant,
        data=data,
        search=search,
        remove=remove,
        limit=limit,
        embeddings=embeddings,
        embedding_model=embedding_model,
        json_output=json_output,
    )


@app.command()
def doctor() -> None:
    """Show what this machine offers and what deepseek makes of it."""
    from deepseek.cli.doctor import run

    run()
