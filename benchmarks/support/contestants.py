"""Us and the peer behind the same two lines: prompts of ids in, the same number of greedy tokens and their times out.

Both load a checkpoint as their users do and run with all cores, their default attention and their default cache. Neither
stops at an end-of-sequence token. The peer's experts run in whichever of its own forms is fastest for the work at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from transformers.generation import BaseStreamer

from deepseek import LLM, SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.engine.scheduler_config import SpeculationMode
from deepseek.kernels.backend import physical_cores
from deepseek.models.transformer import Quantization
from support.machine import settle

Ids = Sequence[int]

_EXPERT_FORMS = ("grouped_mm", "batched_mm", "eager")


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation. outputs: new ids per prompt. first_s: from the start to the first token; total_s: to the end."""

    outputs: list[list[int]]
    first_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens of all streams over the whole time, prompts included."""
        return sum(map(len, self.outputs)) / self.total_s

    @property
    def decode_tokens_per_s(self) -> float:
        """From the first token to the last, of one stream: the prompt's time is left out."""
        return (len(self.outputs[0]) - 1) / (self.total_s - self.first_s)


class Contestant(Protocol):
    def generate(self, prompts: Sequence[Ids], new_tokens: int) -> Turn: ...


class Ours:
    """`deepseek.LLM` with its defaults, the key-value cache apart: a benchmark knows how much it needs.

    speculation: off for weights that are random, whose output may repeat itself as no real model's does.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        kv_bytes: int | None = None,
        quantization: Quantization = "none",
        speculation: SpeculationMode = "auto",
    ) -> None:
        options = EngineOptions(kv_bytes=kv_bytes, quantization=quantization, speculation=speculation)
        self.llm = LLM(model, options=options)

    def generate(self, prompts: Sequence[Ids], new_tokens: int) -> Turn:
        times: list[float] = []
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        completions = self.llm.generate(
            [list(ids) for ids in prompts], params, on_token=lambda _index, _tokens: times.append(time.perf_counter())
        )
        return _turn([completion.token_ids for completion in completions], new_tokens, times, start)


class Transformers:
    """`generate` of transformers in float32: scaled-dot-product attention and a dynamic cache, as it comes."""

    def __init__(self, directory: Path) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # The library's own default is one thread a core too; said here because the environment may say otherwise.
        torch.set_num_threads(physical_cores())
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.experts: str | None = None
        # None: go on past the end of the sequence, without a logits processor that would cost time and change ids.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def generate(self, prompts: Sequence[Ids], new_tokens: int) -> Turn:
        times: list[float] = []
        ids = torch.tensor([list(prompt) for prompt in prompts])
        # Streamers take one sequence only; batches are timed as a whole.
        streamer = _Stopwatch(times) if len(prompts) == 1 else None
        start = time.perf_counter()
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=streamer,
        )
        return _turn(out[:, ids.shape[1] :].tolist(), new_tokens, times, start)

    def choose_experts(self, prompts: Sequence[Ids], new_tokens: int) -> str | None:
        """Time each form of the expert layers on this work and keep the fastest. None for a model without experts."""
        if not hasattr(self.model.config, "n_routed_experts"):
            return None
        speeds = {}
        for form in _EXPERT_FORMS:
            self.model.set_experts_implementation(form)
            try:
                self.generate(prompts, 2)
                speeds[form] = max(self.generate(prompts, new_tokens).tokens_per_s for _ in range(2))
            except RuntimeError:
                continue  # some forms ask for sides that are multiples of 16 bytes
        self.experts = max(speeds, key=lambda form: speeds[form])
        self.model.set_experts_implementation(self.experts)
        return self.experts


class _Stopwatch(BaseStreamer):
    """Notes when each token comes; the first call hands over the prompt."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.prompt_seen = times, False

    def put(self, value: Any) -> None:
        if self.prompt_seen:
            self.times.append(time.perf_counter())
        self.prompt_seen = True

    def end(self) -> None:
        pass  # the last token was the end


@dataclass(slots=True)
class Rounds:
    """A B A B: what both did in each round, and how awake the one's threads still were when the other began."""

    ours: list[Turn] = field(default_factory=list)
    peer: list[Turn] = field(default_factory=list)
    idle_share: float = 0.0

    def equal_ids(self) -> float:
        """Share of all output positions that hold the same id in both. After a first difference few do."""
        pairs = [
            (mine, theirs)
            for a, b in zip(self.ours, self.peer, strict=True)
            for left, right in zip(a.outputs, b.outputs, strict=True)
            for mine, theirs in zip(left, right, strict=True)
        ]
        return sum(mine == theirs for mine, theirs in pairs) / len(pairs)


def interleave(
    ours: Contestant,
    peer: Contestant,
    prompts: Callable[[int], Sequence[Ids]],
    new_tokens: int,
    rounds: int,
    say: Callable[[str], None],
) -> Rounds:
    """Let both do the same work, in turn. `prompts(round)` are new each round: nobody's prefix cache helps."""
    done = Rounds()
    warm_up = prompts(-1)
    for contestant in (ours, peer):
        contestant.generate(warm_up, min(new_tokens, 8))
    for index in range(rounds):
        batch = prompts(index)
        done.idle_share = max(done.idle_share, settle())
        done.ours.append(ours.generate(batch, new_tokens))
        done.idle_share = max(done.idle_share, settle())
        done.peer.append(peer.generate(batch, new_tokens))
        say(
            f"  round {index + 1}/{rounds}: {done.ours[-1].tokens_per_s:.1f} and {done.peer[-1].tokens_per_s:.1f} tokens/s"
        )
    return done


def _turn(outputs: list[list[int]], new_tokens: int, times: list[float], start: float) -> Turn:
    end = time.perf_counter()
    if any(len(ids) != new_tokens for ids in outputs):
        raise RuntimeError(f"outputs of {[len(ids) for ids in outputs]} tokens where {new_tokens} were asked for")
    # With a stopwatch the end is the last token: what follows is not decoding.
    return Turn(outputs, times[0] - start if times else float("nan"), (times[-1] if times else end) - start)
