"""Puts an engine together: files, weights, tokenizer, cache and scheduler of one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.core.memory import available_bytes
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.loop import EngineLoop
from deepseek.engine.scheduler_config import SchedulerConfig, SpeculationMode
from deepseek.engine.weights import Weights
from deepseek.engine.worker import Worker, cache_layers
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.context import KVCache
from deepseek.models.locate import locate
from deepseek.models.quantize import QuantizationChoice, WeightSize, weight_size
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Model, Quantization

BLOCK_SIZE = 16
_MEMORY_SHARE = 0.25
MAX_KV_FRACTION = 0.95
"""The rest is for what steps need; a machine that swaps serves nobody."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """max_model_len: tokens of prompt and completion (None: the model's). kv_bytes: size of the key-value cache
    (None: room for max_sequences of full length, at most a quarter of the free memory). kv_fraction: instead, the share
    of the memory that is free once the weights are loaded. quantization and
    quantization_cache: what `load_model` makes of the weights. The rest as in SchedulerConfig. Raises ConfigError."""

    max_model_len: int | None = None
    kv_bytes: int | None = None
    kv_fraction: float | None = None
    max_tokens_per_step: int = 512
    max_sequences: int = 64
    max_waiting: int = 1024
    prefix_cache: bool = True
    quantization: QuantizationChoice = "none"
    quantization_cache: str | Path | None = None
    speculation: SpeculationMode = "auto"
    max_draft_tokens: int = 3

    def __post_init__(self) -> None:
        if self.kv_fraction is None:
            return
        if self.kv_bytes is not None:
            raise ConfigError("give kv_bytes or kv_fraction", found="both")
        if not 0.0 < self.kv_fraction <= MAX_KV_FRACTION:
            expected = f"above 0, at most {MAX_KV_FRACTION}"
            raise ConfigError("out of range", where="kv_fraction", found=self.kv_fraction, expected=expected)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that serves one model."""

    directory: Path
    config: ModelConfig
    tokenizer: Tokenizer
    loop: EngineLoop
    max_model_len: int
    weights: Weights | None = None
    quantization: Quantization = "none"
    size: WeightSize | None = None
    grammars: GrammarCompiler | None = None


def build_loop(reference: str | Path, options: EngineOptions | None = None) -> LoadedModel:
    """Load a model ("builtin", a directory or a hub id) and make its loop.

    Raises ConfigError, CheckpointError or TokenizerError.
    """
    options = options or EngineOptions()
    directory = locate(reference)
    config = ModelConfig.from_file(directory)
    tokenizer = Tokenizer.from_dir(directory)
    tokenizer.check_fits(config.vocab_size)
    max_model_len = _model_length(config, options)
    model = load_model(directory, quantization=options.quantization, quantization_cache=options.quantization_cache)
    # A checkpoint may announce draft layers that its files lack: the loaded model knows.
    drafts = options.speculation == "mtp" or (options.speculation == "auto" and len(model.mtp) > 0)
    layers = cache_layers(config, drafts)
    num_blocks = _num_blocks(config, options, max_model_len, layers)
    scheduler = SchedulerConfig(
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        block_size=BLOCK_SIZE,
        max_tokens_per_step=options.max_tokens_per_step,
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        eos_token_ids=frozenset(tokenizer.eos_ids) | frozenset(config.eos_token_ids),
        prefix_cache=options.prefix_cache,
        speculation=options.speculation,
        max_draft_tokens=options.max_draft_tokens,
    )
    worker = Worker(model, num_blocks, BLOCK_SIZE, drafts=drafts)
    loop = EngineLoop(
        worker,
        tokenizer,
        scheduler,
        vocab_size=config.vocab_size,
        encode=lambda text: tokenizer.encode_piece(text, at_start=False),
    )
    grammars = GrammarCompiler(tokenizer, config.vocab_size, sorted(scheduler.eos_token_ids))
    # Not the model itself: it must go when others take its place.
    quantization = model.quantization

    def load(found: Path) -> Model:
        return load_model(found, quantization=quantization, quantization_cache=options.quantization_cache)

    weights = Weights(worker, directory, load)
    longest = loop.scheduler.max_length
    size = weight_size(model)
    return LoadedModel(directory, config, tokenizer, loop, longest, weights, quantization, size, grammars)


def _model_length(config: ModelConfig, options: EngineOptions) -> int:
    wanted = config.max_position_embeddings if options.max_model_len is None else options.max_model_len
    if not 2 <= wanted <= config.max_position_embeddings:
        raise ConfigError(
            "out of range", where="max_model_len", found=wanted, expected=f"2 to {config.max_position_embeddings}"
        )
    return wanted


def _num_blocks(config: ModelConfig, options: EngineOptions, max_model_len: int, layers: int | None = None) -> int:
    block_bytes = BLOCK_SIZE * KVCache.bytes_per_token(config, layers)
    given, where = options.kv_bytes, "kv_bytes"
    if options.kv_fraction is not None:
        given, where = int(available_bytes() * options.kv_fraction), "kv_fraction"
    if given is not None:
        blocks = given // block_bytes
        if blocks < 1:
            raise ConfigError("holds not one block", where=where, found=given, expected=f">= {block_bytes}")
        return blocks
    full = options.max_sequences * -(-max_model_len // BLOCK_SIZE)
    return max(1, min(full, int(available_bytes() * _MEMORY_SHARE) // block_bytes))
