"""The spine's claims: a server that is soon ready and soon answers, and a model that outruns transformers.

    start    `deepseek serve --model builtin`: seconds until /readyz says yes, for a start that is not the first on this
             machine, and milliseconds from sending a 20-token prompt to the first text at the client
    builtin  the built-in mixture of experts, ours (stored in FP8) beside transformers (the same weights in float32), at
             1 and at 16 streams: new tokens a second, prompts included
    qwen2    decoding one stream of a 0.4 B Qwen2-shaped float32 checkpoint, ours beside transformers, with the achieved
             GB/s beside what the machine can read

    python benchmarks/spine.py [start|builtin|qwen2|all] [--runs N] [--cache-dir DIR] [--json-only]

Progress goes to stderr; stdout gets a Markdown table and, last, one line of JSON. Numbers mean something on a quiet
machine only: its load is printed with them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch and tokenizers are imported: nothing is fetched, and no fork warnings.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from support import machine, report
from support.builtin import compare_builtin, roofline, texts
from support.checkpoints import QWEN2_0_4B, available_gib, random_checkpoint, work_of
from support.contestants import Ids, Ours, Transformers, interleave
from support.report import Result, compared, percentile, progress
from support.served import Client, served

from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

READY_S, FIRST_TEXT_MS = 8.0, 60.0
BUILTIN_RATIO, QWEN2_RATIO = 1.5, 1.15
PROMPT_TOKENS = 20
KV_BYTES = 256 * 2**20


def start(runs: int = 5, requests: int = 30, warm_up: bool = True) -> dict[str, Result]:
    """`runs` starts after one that does not count, then `requests` streamed requests to the last of them."""
    if warm_up:
        with served():
            progress("start: kernels built, files in the page cache")
    ready_s: list[float] = []
    import_s: list[float] = []
    for run in range(runs):
        import_s.append(_import_torch_s())
        with served() as server:
            ready_s.append(server.ready_s)
            progress(
                f"  start {run + 1}/{runs}: ready after {server.ready_s:.2f} s; importing torch {import_s[-1]:.2f} s"
            )
            if run == runs - 1:
                first = _first_text(server.port, requests)
    ready = Result(
        statistics.median(ready_s),
        "s",
        READY_S,
        limit=statistics.median(import_s),
        limit_is="it importing torch",
        notes={"runs": runs, "ours_all": [round(seconds, 3) for seconds in ready_s]},
    )
    return {"start: ready": ready, "start: first text": first}


def builtin(
    runs: int = 5, streams: Sequence[int] = (1, 16), prompt_tokens: int = 32, new_tokens: int = 128
) -> dict[str, Result]:
    return compare_builtin(runs, streams, prompt_tokens, new_tokens, wanted=BUILTIN_RATIO)


def qwen2(
    runs: int = 5,
    cache: Path | None = None,
    shape: dict[str, Any] = QWEN2_0_4B,
    prompt_tokens: int = 64,
    new_tokens: int = 64,
) -> dict[str, Result]:
    """Tokens a second from the first new token to the last; weights are random, prompts too."""
    with tempfile.TemporaryDirectory() as scratch:
        progress("qwen2: writing the checkpoint, or finding it")
        directory = random_checkpoint(shape, cache or Path(scratch))
        work = work_of(directory)
        needed_gib = 2.2 * work.model_bytes / 2**30 + 1.5
        if available_gib() < needed_gib:
            raise SystemExit(
                f"qwen2 needs {needed_gib:.1f} GiB of free memory for both systems; {available_gib():.1f} are free"
            )
        limit = roofline(work, 1)
        progress("qwen2: loading both")
        ours, peer = Ours(directory, kv_bytes=KV_BYTES, speculation="off"), Transformers(directory)

        def prompts(index: int) -> list[Ids]:
            rng = random.Random(index)
            return [[rng.randrange(shape["vocab_size"]) for _ in range(prompt_tokens)]]

        progress(f"qwen2: {runs} rounds, {prompt_tokens} + {new_tokens} tokens")
        rounds = interleave(ours, peer, prompts, new_tokens, runs, progress)
        after = machine.measure_limits(work.model_bytes)
    read_gb_s = max(limit["read_gb_s"], after.read_gb_s)
    speeds = [turn.decode_tokens_per_s for turn in rounds.ours]
    peer_speeds = [turn.decode_tokens_per_s for turn in rounds.peer]
    to_gb_s = work.bytes_per_step / 1e9
    result = compared(
        speeds,
        peer_speeds,
        "tokens/s",
        QWEN2_RATIO,
        limit=read_gb_s / to_gb_s,
        limit_is=f"{read_gb_s:.1f} GB/s",
        notes=limit
        | {
            "tokens_per_s": read_gb_s / to_gb_s,
            "read_gb_s": read_gb_s,
            "ours_gb_s": round(statistics.median(speeds) * to_gb_s, 2),
            "peer_gb_s": round(statistics.median(peer_speeds) * to_gb_s, 2),
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "equal_ids": round(rounds.equal_ids(), 4),
            "idle_share": round(rounds.idle_share, 3),
        },
    )
    return {"qwen2: decode, 1 stream": result}


def _first_text(port: int, requests: int) -> Result:
    tokenizer = Tokenizer.from_dir(builtin_dir())
    pool = texts(tokenizer, 2 * requests + 4, PROMPT_TOKENS, seed=7)
    first_ms: list[float] = []
    silent = 0
    with Client(port) as client:
        for prompt in pool[:4]:
            client.stream(_request(prompt))
        http_ms = [1000 * client.get_s("/healthz") for _ in range(requests)]
        for prompt in pool[4:]:
            streamed = client.stream(_request(prompt))
            if streamed.prompt_tokens != PROMPT_TOKENS:
                raise RuntimeError(f"a prompt of {streamed.prompt_tokens} tokens where {PROMPT_TOKENS} were meant")
            if streamed.first_text_s is None:
                silent += 1  # the model ended at once: there is no first text to time
                continue
            first_ms.append(1000 * streamed.first_text_s)
            if len(first_ms) == requests:
                break
    if not first_ms:
        raise RuntimeError("the model answered no prompt with any text")
    median, p90 = statistics.median(first_ms), percentile(first_ms, 0.9)
    progress(
        f"  first text after {median:.1f} ms (p90 {p90:.1f}); an empty request takes {statistics.median(http_ms):.1f} ms"
    )
    return Result(
        median,
        "ms",
        FIRST_TEXT_MS,
        limit=statistics.median(http_ms),
        limit_is="it an empty request",
        notes={"p90": round(p90, 2), "requests": len(first_ms), "silent": silent, "prompt_tokens": PROMPT_TOKENS},
    )


def _request(prompt: str) -> dict[str, Any]:
    return {"model": "deepseek-tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}


def _import_torch_s() -> float:
    """What no server of a torch model can go below."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The spine's claims, beside transformers. See benchmarks/README.md.")
    parser.add_argument("part", nargs="?", choices=("start", "builtin", "qwen2", "all"), default="all")
    parser.add_argument("--runs", type=int, default=5, help="starts, and rounds of the two systems (5)")
    parser.add_argument("--cache-dir", type=Path, help="keeps the 1.5 GB checkpoint of qwen2 for the next time")
    parser.add_argument("--json-only", action="store_true", help="print nothing but the JSON line on stdout")
    chosen = parser.parse_args(arguments)
    if chosen.runs < 1:
        parser.error("--runs must be at least 1")
    parts: dict[str, Callable[[], dict[str, Result]]] = {
        "start": lambda: start(chosen.runs),
        "builtin": lambda: builtin(chosen.runs),
        "qwen2": lambda: qwen2(chosen.runs, chosen.cache_dir),
    }
    described = machine.describe()
    if described["load_per_core"] > machine.QUIET_LOAD:
        progress(
            f"This machine is busy (load per core {described['load_per_core']}): the numbers below are not to be quoted."
        )
    results: dict[str, Result] = {}
    for name, run in parts.items():
        if chosen.part in (name, "all"):
            results |= run()
    described["load_per_core_after"] = round(machine.load_per_core(), 2)
    if not chosen.json_only:
        print(report.table(described, results), end="\n\n")
    print(report.json_line(described, results))


if __name__ == "__main__":
    main()
