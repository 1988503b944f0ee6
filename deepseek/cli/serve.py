"""`deepseek serve`: load a model, put the HTTP front before it, run until a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from deepseek import console as web_console
from deepseek import kernels
from deepseek.api import ApiSettings, ServerState, serve
from deepseek.api.config import PlatformConfig, load
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.metering.prices import require_prices
from deepseek.api.platform import checked_host, open_platform
from deepseek.api.server import bind
from deepseek.chat.codec import TextCodec
from deepseek.cli.options import parse_adapters
from deepseek.cli.screen import Rows, describe_weights, print_line, print_rows
from deepseek.core.errors import ConfigError
from deepseek.core.memory import available_bytes
from deepseek.engine.build import EngineOptions, LoadedModel, build_loop
from deepseek.engine.engine import Engine
from deepseek.models.context import KVCache
from deepseek.models.locate import display_name


def run(
    model: str,
    options: EngineOptions,
    *,
    names: Sequence[str] | None,
    adapters: Sequence[str],
    host: str,
    port: int,
    grace_s: float,
    config_file: Path | None = None,
    database: str | None = None,
    require_keys: bool = False,
    grpc_port: int | None = None,
) -> None:
    """Blocks until the server was stopped. Raises DeepSeekError for whatever keeps it from starting.

    adapters: as name=path. config_file, database, require_keys: see `deepseek.api.platform.open_platform`.
    grpc_port: instead of the one in the configuration's section `grpc`; without either there is no gRPC.
    """
    # A drained server has done what it was told: SIGTERM ends it as Ctrl-C does, with exit code 0.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Console(stderr=True)
    bind(host, port).close()  # a port in use is said before a large model is loaded
    served = tuple(dict.fromkeys(names or [display_name(model)]))
    config = PlatformConfig() if config_file is None else load(config_file)
    paths = parse_adapters(adapters, served)
    where = str(config_file)
    grpc = grpc_of(config.grpc, grpc_port, host)
    platform = open_platform(
        config, host=host, database=database, require_keys=require_keys, where=where, watched=config_file
    )
    try:
        paths |= adapters_of_tenants(config, where, (*served, *paths))
        check_names(config, where, (*served, *paths))
        prices = describe_prices(config, where, (*served, *paths))
        free = available_bytes()
        with screen.status(Text(f"loading {model}")):
            loaded = build_loop(model, options)
            engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
            asyncio.run(load_adapters(engine, paths))
        print_rows(
            screen, [*describe(loaded, served, paths, free), *platform.rows, *prices, *describe_grpc(grpc, host)]
        )
        codec = TextCodec(loaded.tokenizer)
        state = ServerState(
            engine=engine,
            text=codec,
            models=served,
            max_model_len=loaded.max_model_len,
            settings=ApiSettings(max_text_chars=codec.longest_text(loaded.max_model_len)),
            adapters=tuple(paths),
            **platform.state_fields(),
        )
        serve(
            state,
            host=host,
            port=port,
            pages=web_console.pages(),
            grace_s=grace_s,
            grpc=grpc,
            on_ready=lambda url: print_line(screen, f"ready: {url}  (Ctrl-C stops)", "bold"),
        )
    finally:
        platform.close()


def grpc_of(config: GrpcConfig | None, port: int | None, host: str) -> GrpcConfig | None:
    """How gRPC is served, if it is. Raises ConfigError, before a model is loaded, for what cannot be listened on."""
    if port is not None:
        config = GrpcConfig(port=port) if config is None else config.model_copy(update={"port": port})
    if config is not None:
        bind(checked_host(config, host), config.port).close()
    return config


def describe_prices(config: PlatformConfig, where: str, names: Sequence[str]) -> Rows:
    """What is served for nothing although there are prices. Raises ConfigError where budgets are in money."""
    for_money = any(budget.money is not None for budget in config.budgets)
    free = require_prices(config.prices, names, for_money=for_money, where=where)
    return [("no price", f"{', '.join(free)}: their use is written down and costs nothing")] if free else []


def describe_grpc(config: GrpcConfig | None, host: str) -> Rows:
    if config is None:
        return []
    secured = "TLS" if config.certificate is not None else "no TLS"
    return [("gRPC", f"{config.host or host}, port {config.port or 'to be chosen'}, {secured}")]


def adapters_of_tenants(config: PlatformConfig, where: str, taken: Sequence[str]) -> dict[str, str]:
    """Directory by name of the adapters in the configuration. Raises ConfigError for a name in `taken`."""
    found = config.adapters(where)
    for name in found:
        if name in taken:
            raise ConfigError("this name is taken", where=f"{where}: tenants", found=name, expected="another name")
    return found


def check_names(config: PlatformConfig, where: str, served: Sequence[str]) -> None:
    """Raises ConfigError where a tenant is promised a model that is not served."""
    for tenant, section in config.tenants.items():
        for name in section.models:
            if name not in served:
                raise ConfigError(
                    "no such model is served",
                    where=f"{where}: tenants.{tenant}.models",
                    found=name,
                    expected=", ".join(served),
                )


async def load_adapters(engine: Engine, paths: Mapping[str, str]) -> None:
    """Load each under its name. The engine is closed if one is refused."""
    try:
        for name, path in paths.items():
            await engine.load_adapter(name, path)
    except BaseException:
        await engine.close()
        raise


def describe(loaded: LoadedModel, names: Sequence[str], adapters: Mapping[str, str], free_before: int) -> Rows:
    """What is being served, and where its memory goes. free_before: bytes that were free before loading."""
    scheduler = loaded.loop.scheduler.config
    about = kernels.describe()
    rows = [("model", f"{', '.join(names)}  ({loaded.config.architecture}, {loaded.directory})")]
    if loaded.size is not None:
        rows.append(("weights", describe_weights(loaded.quantization, loaded.size)))
    if adapters:
        rows.append(("adapters", ", ".join(f"{name} ({path})" for name, path in adapters.items())))
    return [
        *rows,
        ("kernels", f"{about['backend']}, {about['isa']}, {about['threads']} threads"),
        ("KV cache", _describe_cache(loaded)),
        ("memory", f"{free_before / 2**30:.2f} GiB free before, {available_bytes() / 2**30:.2f} GiB after"),
        ("context", f"{loaded.max_model_len} tokens"),
        (
            "together",
            f"{scheduler.max_sequences} sequences, {scheduler.max_tokens_per_step} tokens a step, "
            f"{scheduler.max_waiting} requests waiting",
        ),
        ("speculation", _describe_speculation(loaded)),
    ]


def _describe_cache(loaded: LoadedModel) -> str:
    scheduler = loaded.loop.scheduler.config
    tokens = scheduler.num_blocks * scheduler.block_size
    layers = None if loaded.weights is None else len(loaded.weights.worker.cache.pools)
    each = KVCache.bytes_per_token(loaded.config, layers)
    prefixes = "prefixes kept" if scheduler.prefix_cache else "no prefixes kept"
    return f"{tokens} tokens, {tokens * each / 2**20:.1f} MiB, {each} bytes a token, {prefixes}"


def _describe_speculation(loaded: LoadedModel) -> str:
    scheduler = loaded.loop.scheduler.config
    if scheduler.speculation == "off" or not scheduler.max_draft_tokens:
        return "off"
    has_layers = loaded.weights is not None and loaded.weights.worker.drafts
    layers, ngrams = "the model's draft layers", "n-grams of what came before"
    source = {
        "mtp": layers,
        "ngram": ngrams,
        "auto": f"{layers} or {ngrams}, while it pays" if has_layers else f"{ngrams}, while it pays",
    }[scheduler.speculation]
    return f"{scheduler.speculation}: at most {scheduler.max_draft_tokens} tokens a step, from {source}"
