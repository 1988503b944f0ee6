"""Us and llama.cpp on the same weights at equal bits: a prompt of 512, decoding one stream, and 16 streams at once.

llama.cpp's side is its own benchmarks' (`llama-bench`, `llama-batched-bench`), one process a turn, loading not counted,
started while our process sleeps. Decoding starts at an empty context on both sides.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deepseek.models.config import ModelConfig
from deepseek.models.context import KVCache
from deepseek.models.transformer import Quantization
from support import machine
from support.checkpoints import Work, work_of
from support.contestants import Ids, Ours
from support.llama import FORMATS, Llama, choose_flash
from support.machine import Limits, settle
from support.report import Result, compared, progress

PREFILL, DECODE, STREAMS = "prefill 512", "decode, 1 stream", "16 streams"
WANTED: dict[Quantization, dict[str, float]] = {
    "int8": {PREFILL: 1.6, DECODE: 1.3, STREAMS: 1.7},
    "int4": {PREFILL: 1.6, DECODE: 1.1},
}
AIM: dict[Quantization, dict[str, float]] = {
    "int8": {PREFILL: 2.2, DECODE: 1.7, STREAMS: 2.2},
    "int4": {PREFILL: 2.2, DECODE: 1.4},
}

# A process that has just ended still gives memory back.
_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens, streams and rounds of a comparison."""

    runs: int = 5
    prefill: int = 512
    decode: int = 128
    streams: int = 16
    prompt: int = 128
    new: int = 64


def compare_equal_bits(
    name: str, checkpoint: Path, quantization: Quantization, llama: Llama, sizes: Sizes
) -> dict[str, Result]:
    """Interleaved rounds of all three. Raises NotMeasured where llama.cpp is not there."""
    gguf = llama.gguf(checkpoint, FORMATS[quantization])
    progress(f"{name} {quantization}: trying flash attention")
    streams = sizes.streams, sizes.prompt, max(1, sizes.new // 4)
    flash = choose_flash(llama, gguf, prompt=sizes.prefill, new=max(1, sizes.decode // 2), streams=streams)
    progress(f"{name} {quantization}: loading ours; the peer's {flash}")
    vocabulary, cache = vocabulary_and_cache(checkpoint, sizes)
    ours = Ours(checkpoint, kv_bytes=cache, quantization=quantization, speculation="off")
    prompts = Prompts(vocabulary)
    for tokens in (sizes.prefill, 1):
        ours.generate(prompts.some(1, tokens), 4)
    mine: dict[str, list[float]] = {PREFILL: [], DECODE: [], STREAMS: []}
    theirs: dict[str, list[float]] = {PREFILL: [], DECODE: [], STREAMS: []}
    threads: list[float] = []
    limits = measured_limits(checkpoint)

    def turn(kind: str, our: Callable[[], float], their: Callable[[], float]) -> None:
        threads.append(settle())
        mine[kind].append(our())
        threads.append(settle())
        time.sleep(_PAUSE_S)
        theirs[kind].append(their())

    def their_streams(on: bool) -> float:
        turned = llama.streams(gguf, count=sizes.streams, prompt=sizes.prompt, new=sizes.new, flash=on)
        return turned.tokens_per_s

    for index in range(sizes.runs):
        turn(
            PREFILL,
            lambda: sizes.prefill / ours.generate(prompts.some(1, sizes.prefill), 1).first_s,
            lambda: llama.speed(gguf, prompt=sizes.prefill, flash=flash.prompt),
        )
        turn(
            DECODE,
            lambda: ours.generate(prompts.some(1, 1), sizes.decode).decode_tokens_per_s,
            lambda: llama.speed(gguf, new=sizes.decode, flash=flash.decode),
        )
        turn(
            STREAMS,
            lambda: ours.generate(prompts.some(sizes.streams, sizes.prompt), sizes.new).tokens_per_s,
            lambda: their_streams(flash.streams),
        )
        shown = ", ".join(f"{kind} {mine[kind][-1]:.1f} and {theirs[kind][-1]:.1f}" for kind in mine)
        progress(f"  round {index + 1}/{sizes.runs}: {shown} tokens/s")
    limits = best_of(limits, measured_limits(checkpoint))
    work, loaded = work_of(checkpoint, 1, quantization), work_of(checkpoint, sizes.streams, quantization)
    least = least_seconds(work, loaded, limits, sizes)
    return {
        f"{name} {quantization}: {kind}": compared(
            mine[kind],
            theirs[kind],
            "tokens/s",
            WANTED[quantization].get(kind),
            aim=AIM[quantization].get(kind),
            limit=least[kind],
            limit_is="the roofline",
            notes=achieved(kind, statistics.median(mine[kind]), work, limits)
            | {"peer_format": FORMATS[quantization], "peer_flash": asdict(flash), "idle_share": max(threads)},
        )
        for kind in mine
    }


class Prompts:
    """Random ids, new ones at every call: nobody's prefix cache helps."""

    def __init__(self, vocabulary: int, seed: int = 1) -> None:
        self._vocabulary, self._random = vocabulary, random.Random(seed)

    def some(self, count: int, tokens: int) -> Sequence[Ids]:
        return [[self._random.randrange(self._vocabulary) for _ in range(tokens)] for _ in range(count)]


def vocabulary_and_cache(checkpoint: Path, sizes: Sizes) -> tuple[int, int]:
    """Ids to choose from, and bytes of a key-value cache that holds every stream of these sizes at once."""
    config = ModelConfig.from_file(checkpoint)
    tokens = max(sizes.streams * (sizes.prompt + sizes.new + 32), sizes.prefill + sizes.decode + 64)
    # The last id of the made-up tokenizer is its only special one.
    return config.vocab_size - 1, tokens * KVCache.bytes_per_token(config)


def measured_limits(checkpoint: Path) -> Limits:
    found = machine.measure_limits(work_of(checkpoint, 1, "int8").bytes_per_step)
    return Limits(found.read_gb_s, found.multiply_gflop_s, found.bytes_read, machine.multiply_int8_gop_s())


def best_of(a: Limits, b: Limits) -> Limits:
    """A limit is what the machine can do: the better of two measurements."""
    return Limits(
        max(a.read_gb_s, b.read_gb_s),
        max(a.multiply_gflop_s, b.multiply_gflop_s),
        a.bytes_read,
        max(a.int8_gop_s, b.int8_gop_s),
    )


def least_seconds(work: Work, loaded: Work, limits: Limits, sizes: Sizes) -> dict[str, float]:
    """Tokens a second that reading the weights and multiplying in 8 bits allow; attention is left out.

    work: of one stream's step; loaded: of a step of all streams.
    """
    prefill_s = limits.seconds(loaded.bytes_per_step, sizes.prefill * work.flop_per_token, integer=True)
    decode_s = limits.seconds(work.bytes_per_step, work.flop_per_token, integer=True)
    tokens = sizes.streams * sizes.prompt
    prompts_s = limits.seconds(loaded.bytes_per_step, tokens * work.flop_per_token, integer=True)
    step_s = limits.seconds(loaded.bytes_per_step, sizes.streams * work.flop_per_token, integer=True)
    return {
        PREFILL: sizes.prefill / prefill_s,
        DECODE: 1 / decode_s,
        STREAMS: sizes.streams * sizes.new / (prompts_s + sizes.new * step_s),
    }


def achieved(kind: str, tokens_per_s: float, work: Work, limits: Limits) -> dict[str, float]:
    """Ours in the machine's own terms, beside what it can do."""
    shown = {"ours_gflop_s": tokens_per_s * work.flop_per_token / 1e9, "machine_int8_gop_s": limits.int8_gop_s}
    if kind == DECODE:
        shown = {"ours_gb_s": tokens_per_s * work.bytes_per_step / 1e9}
    elif kind == STREAMS:
        shown = {}
    shown |= {"machine_gb_s": limits.read_gb_s, "machine_gflop_s": limits.multiply_gflop_s}
    return {name: round(value, 2) for name, value in shown.items()}
