"""Sixteen requests that share a long prefix, as agents' do: `deepseek serve` beside llama-server, both over HTTP.

Cold: nobody has seen the prefix when all sixteen come at once. Warm: the same prefix again, with other ends; by then every
one of llama-server's slots holds it, which is the best its users can do, and our cache holds it once. llama-server runs
twice, with its unified cache and with one of each slot's own; the claim is about the faster.

The prefix is made of words that are one token each, so that ours, who gets text, and llama-server, who is spared the
tokenising and gets ids, compute the same.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Quantization
from support.equal_bits import Sizes, vocabulary_and_cache
from support.llama import FORMATS, Llama, LlamaServer, choose_flash
from support.report import Result, compared, progress
from support.served import post, served, together

WANTED, AIM = 1.5, 4.0
_MODEL = "shared-prefix"
_PAUSE_S = 0.5
_CACHES = ("unified", "split")


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    ids: list[int]


Complete = Callable[[Prompt, int], int]


def compare_shared_prefix(
    name: str,
    checkpoint: Path,
    quantization: Quantization,
    llama: Llama,
    *,
    runs: int = 3,
    streams: int = 16,
    prefix: int = 1000,
    own: int = 32,
    new: int = 64,
) -> dict[str, Result]:
    """One cold round, then `runs` warm ones. The peer is the faster of its two kinds of cache. Raises NotMeasured."""
    gguf = llama.gguf(checkpoint, FORMATS[quantization])
    flash = choose_flash(llama, gguf, prompt=min(prefix, 512), new=new, streams=(streams, own, new)).streams
    length = prefix + own + new + 32
    _, cache = vocabulary_and_cache(checkpoint, Sizes(streams=streams, prompt=prefix + own, new=new))
    words = Words(checkpoint)
    start = words.some(prefix)
    options = ["--quantization", quantization, "--kv-bytes", str(cache), "--max-model-len", str(length)]
    options += ["--speculation", "off"]  # random weights may repeat themselves as no real model does
    cells = streams * length
    progress(f"{name} {quantization}: starting the servers")
    speeds: dict[str, list[float]] = {"ours": [], **{kind: [] for kind in _CACHES}}
    with (
        served(str(checkpoint), "--served-model-name", _MODEL, *options) as mine,
        llama.server(gguf, slots=streams, cells=cells, flash=flash, unified=True) as unified,
        llama.server(gguf, slots=streams, cells=cells, flash=flash, unified=False) as split,
    ):
        turns: dict[str, Complete] = {
            "ours": partial(_ours, mine.port),
            **{kind: partial(_theirs, server) for kind, server in zip(_CACHES, (unified, split), strict=True)},
        }
        for index in range(1 + runs):
            prompts = [words.prompt(start + words.some(own)) for _ in range(streams)]
            for system, complete in turns.items():
                time.sleep(_PAUSE_S)
                counts, seconds = together([partial(complete, prompt, new) for prompt in prompts])
                if set(counts) != {new}:
                    raise RuntimeError(f"answers of {sorted(counts)} tokens where {new} were asked for")
                speeds[system].append(sum(counts) / seconds)
            shown = ", ".join(f"{system} {all_[-1]:.1f}" for system, all_ in speeds.items())
            progress(f"  {f'warm round {index}/{runs}' if index else 'cold'}: {shown} tokens/s")
    best = max(_CACHES, key=lambda kind: statistics.median(speeds[kind][1:]))
    cold_best = max(_CACHES, key=lambda kind: speeds[kind][0])
    notes = {"prefix": prefix, "own_prompt": own, "new_tokens": new, "peer_format": FORMATS[quantization]}
    warm = {f"peer_{kind}": round(statistics.median(speeds[kind][1:]), 2) for kind in _CACHES}
    cold = {f"peer_{kind}": round(speeds[kind][0], 2) for kind in _CACHES}
    title = f"{name} {quantization}: {streams} streams, shared prefix"
    return {
        f"{title}, warm": compared(
            *(speeds["ours"][1:], speeds[best][1:], "tokens/s", WANTED),
            aim=AIM,
            notes=notes | warm | {"peer_cache": best},
        ),
        f"{title}, cold": compared(
            *(speeds["ours"][:1], speeds[cold_best][:1], "tokens/s", None),
            notes=notes | cold | {"peer_cache": cold_best},
        ),
    }


class Words:
    """Words of one token each: hexadecimal numbers that happen to have decimal digits only."""

    def __init__(self, checkpoint: Path, seed: int = 5) -> None:
        self._tokenizer = Tokenizer.from_dir(checkpoint)
        self._random = random.Random(seed)
        spelled = (f" {number}" for number in range(8000))
        self._words = [word for word in spelled if len(self._tokenizer.encode(word)) == 1]

    def some(self, count: int) -> list[str]:
        return [self._random.choice(self._words) for _ in range(count)]

    def prompt(self, words: Sequence[str]) -> Prompt:
        text = "".join(words)
        ids = self._tokenizer.encode(text)
        if len(ids) != len(words):
            raise RuntimeError(f"{len(words)} words became {len(ids)} tokens")
        return Prompt(text, ids)


def _ours(port: int, prompt: Prompt, new: int) -> int:
    """Tokens of one greedy completion."""
    body = {"model": _MODEL, "prompt": prompt.text, "max_tokens": new, "temperature": 0}
    return int(post(port, "/v1/generate", body)["usage"]["completion_tokens"])


def _theirs(server: LlamaServer, prompt: Prompt, new: int) -> int:
    return server.complete(prompt.ids, new)
