"""Us beside the two peers that are Python packages: transformers decoding one stream, vLLM with 16 streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deepseek.kernels.backend import physical_cores
from deepseek.models.transformer import Quantization
from support.checkpoints import work_of
from support.contestants import Contestant, Ours, Transformers
from support.equal_bits import Prompts, Sizes, measured_limits, vocabulary_and_cache
from support.machine import settle
from support.report import NotMeasured, Result, compared, progress
from support.vllm_peer import Vllm

TRANSFORMERS_WANTED: dict[Quantization, float] = {"none": 1.6, "int8": 5.0}
VLLM_WANTED: dict[Quantization, float | None] = {"none": None, "int8": 2.0}
SHOWN: dict[Quantization, str] = {"none": "float32", "int8": "int8"}

_DTYPES = ("float32", "bfloat16")
_PAUSE_S = 0.5


def compare_transformers(checkpoints: Mapping[Quantization, Path], sizes: Sizes) -> dict[str, Result]:
    """Decoding from the first new token to the last, one stream. checkpoints: ours by quantisation; the peer computes
    "none", which is float32 on both sides."""
    progress("transformers: loading all")
    vocabulary, cache = vocabulary_and_cache(checkpoints["none"], sizes)
    prompts = Prompts(vocabulary)
    peer = Transformers(checkpoints["none"])
    ours = _ours(checkpoints, cache)
    new = max(4, sizes.decode // 2)
    everyone: list[Contestant] = [peer, *ours.values()]
    for each in everyone:
        each.generate(prompts.some(1, 16), 4)
    mine: dict[Quantization, list[float]] = {name: [] for name in ours}
    theirs: list[float] = []
    for index in range(sizes.runs):
        batch = prompts.some(1, 64)
        for name, contestant in ours.items():
            settle()
            mine[name].append(contestant.generate(batch, new).decode_tokens_per_s)
        settle()
        theirs.append(peer.generate(batch, new).decode_tokens_per_s)
        progress(f"  round {index + 1}/{sizes.runs}: {_last(mine)} and {theirs[-1]:.1f} tokens/s")
    limits = measured_limits(checkpoints["none"])
    results = {}
    for name in ours:
        work = work_of(checkpoints[name], 1, name)
        results[f"qwen2 {SHOWN[name]}: decode, beside transformers float32"] = compared(
            mine[name],
            theirs,
            "tokens/s",
            TRANSFORMERS_WANTED[name],
            limit=1 / limits.seconds(work.bytes_per_step, work.flop_per_token, integer=name == "int8"),
            limit_is="the roofline",
            notes={"prompt_tokens": 64, "new_tokens": new, "machine_gb_s": round(limits.read_gb_s, 2)},
        )
    return results


def compare_vllm(
    make: Callable[[], Mapping[Quantization, Path]], python: Path | None, sizes: Sizes
) -> dict[str, Result]:
    """New tokens of all streams over the whole time, prompts included. Raises NotMeasured where vLLM is not there.

    make: gives the checkpoints of ours by quantisation; called when they are needed.
    """
    if python is None:
        raise NotMeasured("vLLM's interpreter is not given (--vllm-python or VLLM_PYTHON)")
    if not python.exists():
        raise NotMeasured("--vllm-python does not exist")
    checkpoints = make()
    vocabulary, cache = vocabulary_and_cache(checkpoints["none"], sizes)
    prompts = Prompts(vocabulary)
    tokens = sizes.streams * sizes.new

    def speed(peer: Vllm) -> float:
        return tokens / peer.generate(prompts.some(sizes.streams, sizes.prompt), sizes.new)

    def start(dtype: str) -> Vllm:
        progress(f"vllm: starting in {dtype}")
        peer = Vllm(python, checkpoints["int8"], dtype, sizes.prompt + sizes.new + 64, physical_cores())
        speed(peer)  # the first batch warms up
        return peer

    trial = {}
    for dtype in _DTYPES:
        peer = start(dtype)
        trial[dtype] = speed(peer)
        peer.close()
        progress(f"  {dtype}: {trial[dtype]:.1f} tokens/s")
    fastest = max(trial, key=lambda dtype: trial[dtype])
    peer = start(fastest)
    try:
        ours = _ours(checkpoints, cache)
        for contestant in ours.values():
            contestant.generate(prompts.some(sizes.streams, 16), 4)
        mine: dict[Quantization, list[float]] = {name: [] for name in ours}
        theirs: list[float] = []
        for index in range(sizes.runs):
            for name, contestant in ours.items():
                settle()
                time.sleep(_PAUSE_S)
                batch = prompts.some(sizes.streams, sizes.prompt)
                mine[name].append(contestant.generate(batch, sizes.new).tokens_per_s)
            settle()
            theirs.append(speed(peer))
            progress(f"  round {index + 1}/{sizes.runs}: {_last(mine)} and {theirs[-1]:.1f} tokens/s")
    finally:
        peer.close()
    notes = {"peer_dtype": fastest, "peer_trial": {dtype: round(value, 2) for dtype, value in trial.items()}}
    return {
        f"qwen2 {SHOWN[name]}: {sizes.streams} streams, beside vLLM": compared(
            mine[name], theirs, "tokens/s", VLLM_WANTED[name], notes=notes
        )
        for name in ours
    }


def _ours(checkpoints: Mapping[Quantization, Path], cache: int) -> dict[Quantization, Ours]:
    return {
        name: Ours(path, kv_bytes=cache, quantization=name, speculation="off") for name, path in checkpoints.items()
    }


def _last(speeds: Mapping[Quantization, list[float]]) -> str:
    return ", ".join(f"{SHOWN[name]} {values[-1]:.1f}" for name, values in speeds.items())
