"""`deepseek serve`: load a model, put the HTTP front before it, run until a signal."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from deepseek import console as web_console
from deepseek.api import ApiSettings, ServerState, serve
from deepseek.api.server import bind
from deepseek.chat.codec import TextCodec
from deepseek.cli.screen import Rows, print_line, print_rows
from deepseek.engine.build import EngineOptions, LoadedModel, build_loop
from deepseek.engine.engine import Engine
from deepseek.models.context import KVCache
from deepseek.models.locate import display_name


def run(
    model: str, options: EngineOptions, *, names: Sequence[str] | None, host: str, port: int, grace_s: float
) -> None:
    """Blocks until the server was stopped. Raises DeepSeekError for whatever keeps it from starting."""
    # A drained server has done what it was told: SIGTERM ends it as Ctrl-C does, with exit code 0.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Console(stderr=True)
    bind(host, port).close()  # a port in use is said before a large model is loaded
    with screen.status(Text(f"loading {model}")):
        loaded = build_loop(model, options)
    served = tuple(dict.fromkeys(names or [display_name(model)]))
    print_rows(screen, describe(loaded, served))
    codec = TextCodec(loaded.tokenizer)
    state = ServerState(
        engine=Engine(loaded.loop),
        text=codec,
        models=served,
        max_model_len=loaded.max_model_len,
        settings=ApiSettings(max_text_chars=codec.longest_text(loaded.max_model_len)),
    )
    serve(
        state,
        host=host,
        port=port,
        pages=web_console.pages(),
        grace_s=grace_s,
        on_ready=lambda url: print_line(screen, f"ready: {url}  (Ctrl-C stops)", "bold"),
    )


def describe(loaded: LoadedModel, names: Sequence[str]) -> Rows:
    """What is being served, and where its memory goes."""
    config, scheduler = loaded.config, loaded.loop.scheduler
    cache_tokens = scheduler.config.num_blocks * scheduler.config.block_size
    cache_mib = cache_tokens * KVCache.bytes_per_token(config) / 2**20
    return [
        ("model", f"{', '.join(names)}  ({config.architecture}, {loaded.directory})"),
        ("context", f"{loaded.max_model_len} tokens"),
        ("KV cache", f"{cache_tokens} tokens, {cache_mib:.0f} MiB"),
        (
            "together",
            f"{scheduler.config.max_sequences} sequences, {scheduler.config.max_tokens_per_step} tokens a step",
        ),
    ]
