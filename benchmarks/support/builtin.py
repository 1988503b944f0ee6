"""The built-in model beside transformers' `generate`, at some numbers of streams."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer
from support import machine
from support.checkpoints import Work, float32_copy, work_of
from support.contestants import Ids, Ours, Transformers, interleave
from support.report import Result, compared, progress


def compare_builtin(
    runs: int, streams: Sequence[int], prompt_tokens: int, new_tokens: int, wanted: float
) -> dict[str, Result]:
    """The same prompts, the same weights, greedy, past any end of sequence; all prompts of a batch equally long."""
    directory = builtin_dir()
    tokenizer = Tokenizer.from_dir(directory)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        progress("builtin: loading both")
        peer = Transformers(float32_copy("builtin", Path(scratch)))
        ours = Ours("builtin")
        for count in streams:
            work = work_of(directory, count)
            limit = roofline(work, count)

            def prompts(index: int, count: int = count) -> list[Ids]:
                return [
                    tokenizer.encode(text) for text in texts(tokenizer, count, prompt_tokens, seed=1000 * count + index)
                ]

            experts = peer.choose_experts(prompts(-2), min(new_tokens, 16))
            progress(f"builtin: {count} stream(s), {runs} rounds; the peer's experts as {experts}")
            rounds = interleave(ours, peer, prompts, new_tokens, runs, progress)
            name = f"builtin: {count} stream" + ("s" if count > 1 else "")
            results[name] = compared(
                [turn.tokens_per_s for turn in rounds.ours],
                [turn.tokens_per_s for turn in rounds.peer],
                "tokens/s",
                wanted,
                limit=limit["tokens_per_s"],
                limit_is="the roofline",
                notes=limit
                | {
                    "prompt_tokens": prompt_tokens,
                    "new_tokens": new_tokens,
                    "equal_ids": round(rounds.equal_ids(), 4),
                    "idle_share": round(rounds.idle_share, 3),
                    "peer_experts": experts,
                },
            )
    return results


def texts(tokenizer: Tokenizer, count: int, tokens: int, seed: int) -> list[str]:
    """Different texts of exactly `tokens` ids, the beginning-of-sequence id included; they differ from the first word on."""
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        name = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(5)).title()
        a, b, c = (rng.randrange(100, 1000) for _ in range(3))
        long = f"{name} has {a} apples, buys {b} more and gives away {c}. How many apples are left in the end? " * (
            1 + tokens // 20
        )
        cut = tokenizer.decode(tokenizer.encode(long)[:tokens])
        if len(tokenizer.encode(cut)) == tokens and cut not in found:
            found.append(cut)
    return found


def roofline(work: Work, streams: int) -> dict[str, float]:
    """What the machine allows of decoding, and what of the machine and of the work it follows from."""
    limits = machine.measure_limits(work.bytes_per_step)
    return {
        "tokens_per_s": limits.tokens_per_s(work.bytes_per_step, work.flop_per_token, streams),
        "mb_per_step": round(work.bytes_per_step / 1e6, 2),
        "mflop_per_token": round(work.flop_per_token / 1e6, 2),
        "read_gb_s": limits.read_gb_s,
        "multiply_gflop_s": limits.multiply_gflop_s,
    }
