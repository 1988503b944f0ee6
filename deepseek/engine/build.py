"""Puts an engine together: files, weights, tokenizer, cache and scheduler of one model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.engine.loop import EngineLoop
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.worker import Worker
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.context import KVCache
from deepseek.models.locate import locate
from deepseek.models.tokenizer import Tokenizer

BLOCK_SIZE = 16
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """max_model_len: tokens of prompt and completion (None: the model's). kv_bytes: size of the key-value cache
    (None: room for max_sequences of full length, at most a quarter of the free memory). The rest as in SchedulerConfig."""

    max_model_len: int | None = None
    kv_bytes: int | None = None
    max_tokens_per_step: int = 512
    max_sequences: int = 64
    max_waiting: int = 1024
    prefix_cache: bool = True


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that serves one model."""

    directory: Path
    config: ModelConfig
    tokenizer: Tokenizer
    loop: EngineLoop
    max_model_len: int


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
    model = load_model(directory)
    num_blocks = _num_blocks(config, options, max_model_len)
    scheduler = SchedulerConfig(
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        block_size=BLOCK_SIZE,
        max_tokens_per_step=options.max_tokens_per_step,
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        eos_token_ids=frozenset(tokenizer.eos_ids) | frozenset(config.eos_token_ids),
        prefix_cache=options.prefix_cache,
    )
    worker = Worker(model, num_blocks, BLOCK_SIZE)
    loop = EngineLoop(worker, tokenizer, scheduler, vocab_size=config.vocab_size)
    return LoadedModel(directory, config, tokenizer, loop, loop.scheduler.max_length)


def _model_length(config: ModelConfig, options: EngineOptions) -> int:
    wanted = config.max_position_embeddings if options.max_model_len is None else options.max_model_len
    if not 2 <= wanted <= config.max_position_embeddings:
        raise ConfigError(
            "out of range", where="max_model_len", found=wanted, expected=f"2 to {config.max_position_embeddings}"
        )
    return wanted


def _num_blocks(config: ModelConfig, options: EngineOptions, max_model_len: int) -> int:
    block_bytes = BLOCK_SIZE * KVCache.bytes_per_token(config)
    if options.kv_bytes is not None:
        blocks = options.kv_bytes // block_bytes
        if blocks < 1:
            raise ConfigError(
                "holds not one block", where="kv_bytes", found=options.kv_bytes, expected=f">= {block_bytes}"
            )
        return blocks
    full = options.max_sequences * -(-max_model_len // BLOCK_SIZE)
    return max(1, min(full, int(available_bytes() * _MEMORY_SHARE) // block_bytes))


def available_bytes() -> int:
    """Memory that can be taken without swapping, as the system estimates it, within the control group's limit."""
    limits = [_free_in_group("memory.max", "memory.current", "inactive_file")]  # version 2, then 1
    limits.append(_free_in_group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"))
    return min([_free_in_system(), *(limit for limit in limits if limit is not None)])


def _free_in_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_group(limit: str, usage: str, reclaimable: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take: its limit less what it uses, file pages that can be dropped not counted."""
    try:
        allowed, used = int((root / limit).read_text()), int((root / usage).read_text())
        statistics = (root / limit).with_name("memory.stat").read_text()
    except (OSError, ValueError):
        return None  # no such control group, or the limit is "max"
    dropped = sum(int(line.split()[1]) for line in statistics.splitlines() if line.startswith(reclaimable + " "))
    return max(0, allowed - used + dropped)
