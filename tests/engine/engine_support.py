"""Tiny models, a tokenizer of bytes, and workers that do as they are told: shared by the engine's tests."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import torch

from deepseek.core.engine import Event, Finish, Ready, Request, TokenLogprob, Tokens
from deepseek.core.sampling import SamplingParams
from deepseek.engine.loop import EngineLoop
from deepseek.engine.plan import KIND_EMBED, KIND_SAMPLE, StepPlan
from deepseek.engine.result import StepResult
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.worker import StepWorker, Worker
from deepseek.models.config import ExpertConfig, LatentConfig, ModelConfig
from deepseek.models.detokenize import DecoderKind
from deepseek.models.rope import RopeConfig
from deepseek.models.transformer import Model

VOCABULARY = 256
KINDS = ("grouped_query", "latent_experts")
Kind = Literal["grouped_query", "latent_experts"]
PATIENCE_S = 30.0  # only a broken engine ever waits this long

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_SPELLING = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + index) for index, byte in enumerate(b for b in range(256) if b not in _PRINTABLE)
}


class ByteTable:
    """Token i is byte i. Ids in `broken` cannot be shown."""

    decoder_kind: DecoderKind = "byte_level"

    def __init__(self, broken: Iterable[int] = ()) -> None:
        self.broken = frozenset(broken)

    def shown_token(self, token_id: int, skip_special: bool) -> str | None:
        if token_id in self.broken:
            raise RuntimeError(f"no text for {token_id}")
        return _SPELLING[token_id]

    def is_control(self, token_id: int) -> bool:
        return False

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return bytes(ids).decode(errors="replace")


def tiny_config(kind: Kind, vocab_size: int = VOCABULARY, draft_layers: int = 0) -> ModelConfig:
    latent = experts = None
    if kind == "latent_experts":
        latent = LatentConfig(None, kv_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=12)
        experts = ExpertConfig(
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=3,
            moe_intermediate_size=20,
            first_k_dense_replace=1,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
        )
    return ModelConfig(
        architecture="llama" if latent is None else "deepseek_v3",
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if latent is None else 4,
        head_dim=12,
        rms_norm_eps=1e-6,
        rope=RopeConfig(theta=10000.0),
        max_position_embeddings=512,
        tie_word_embeddings=latent is not None,
        latent=latent,
        experts=experts,
        num_nextn_predict_layers=draft_layers,
    )


@cache
def tiny_model(kind: Kind, vocab_size: int = VOCABULARY, draft_layers: int = 0) -> Model:
    """Weights so large that logits spread by more than one and tokens wander. Draft layers change nothing else."""
    model = Model(tiny_config(kind, vocab_size, draft_layers)).initialize(seed=1, std=0.25)
    plain = dict(Model(tiny_config(kind, vocab_size)).initialize(seed=1, std=0.25).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in plain:
                parameter.copy_(plain[name])
    return model.pack()


def scheduler_config(**changes: int | bool | str | frozenset[int]) -> SchedulerConfig:
    fields = {"num_blocks": 256, "max_model_len": 256, "block_size": 8, "max_tokens_per_step": 256, "max_sequences": 64}
    return SchedulerConfig(**(fields | changes))  # type: ignore[arg-type]


def model_loop(model: Model, config: SchedulerConfig) -> EngineLoop:
    worker = Worker(model, config.num_blocks, config.block_size, drafts=model.config.num_nextn_predict_layers > 0)
    for pool, _ in worker.cache.pools:
        pool.fill_(math.nan)  # what was never written must never be read
    return EngineLoop(worker, ByteTable(), config, vocab_size=model.config.vocab_size)


@dataclass
class Inbox:
    """A request's events, checked for the order that the contract promises."""

    events: list[Event] = field(default_factory=list)

    def receive(self, events: list[Event]) -> None:
        assert events and self.finish is None, "nothing may follow Finish"
        self.events += events

    @property
    def finish(self) -> Finish | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Finish) else None

    @property
    def ready(self) -> Ready | None:
        first = self.events[0] if self.events else None
        return first if isinstance(first, Ready) else None

    def tokens(self, choice: int = 0) -> list[Tokens]:
        return [event for event in self.events if isinstance(event, Tokens) and event.choice == choice]

    def ids(self, choice: int = 0) -> list[int]:
        return [token for event in self.tokens(choice) for token in event.token_ids]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.tokens(choice))

    def logprobs(self, choice: int = 0) -> list[TokenLogprob]:
        return [logprob for event in self.tokens(choice) for logprob in event.logprobs or ()]


def run(loop: EngineLoop, requests: Sequence[Request], during: Callable[[int], None] | None = None) -> dict[str, Inbox]:
    """Serve all requests to their end, with the accounting checked after every step."""
    inboxes = {request.id: Inbox() for request in requests}
    for request in requests:
        loop.add(request, inboxes[request.id].receive)
    steps = 0
    while loop.has_work:
        assert loop.step()
        loop.scheduler.check()
        steps += 1
        if during is not None:
            during(steps)
    assert not loop.step()
    assert all(inbox.finish for inbox in inboxes.values())
    return inboxes


class ScriptedWorker:
    """Samples `token(sequence's position, row)`, by default the position's last digit as a letter; can be made to fail."""

    def __init__(self, token: Callable[[int], int] = lambda position: 0x61 + position % 10) -> None:
        self.token = token
        self.fail_with: BaseException | None = None
        self.plans: list[StepPlan] = []

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        if self.fail_with is not None:
            failure, self.fail_with = self.fail_with, None
            raise failure
        ids = [
            self.token(int(position)) if kind == KIND_SAMPLE else max(0, int(target))
            for position, kind, target in zip(plan.sampling.position, plan.row_kind, plan.row_target, strict=True)
        ]
        wanted = plan.sampling.logprobs.tolist()
        logprobs = [TokenLogprob(i, -1.0) if w >= 0 else None for i, w in zip(ids, wanted, strict=True)]
        return StepResult(ids, logprobs, np.ones((int((plan.row_kind == KIND_EMBED).sum()), 4), np.float32))


class GatedWorker:
    """Lets another worker's steps through one by one: `entered` says that one waits, `open` lets it pass."""

    def __init__(self, inner: StepWorker) -> None:
        self.inner = inner
        self.entered = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)
        self._free = False

    def run(self, plan: StepPlan) -> StepResult:
        self.entered.release()
        if not self._free and not self._gate.acquire(timeout=PATIENCE_S):
            raise TimeoutError("the gate was never opened")
        return self.inner.run(plan)

    def open(self) -> None:
        self._gate.release()

    def open_for_good(self) -> None:
        self._free = True
        self._gate.release()

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE_S), "no step began"


def scripted_loop(
    worker: StepWorker, table: ByteTable | None = None, **changes: int | bool | str | frozenset[int]
) -> EngineLoop:
    return EngineLoop(worker, table or ByteTable(), scheduler_config(**changes), vocab_size=VOCABULARY)


def spelling_worker(text: str, prompt_tokens: int) -> ScriptedWorker:
    """Says `text`, byte by byte, after a prompt of that many tokens; then dots."""
    data = text.encode()

    def token(position: int) -> int:
        index = position - prompt_tokens
        return data[index] if index < len(data) else 0x2E

    return ScriptedWorker(token)


def request(
    name: str = "r", prompt: Sequence[int] = (1, 2, 3), deadline: float | None = None, **sampling: object
) -> Request:
    params = SamplingParams(**({"temperature": 0.0, "max_tokens": 8} | sampling))  # type: ignore[arg-type]
    return Request(name, tuple(prompt), params, deadline=deadline)


def random_ids(count: int, seed: int, vocabulary: int = VOCABULARY) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, vocabulary, (count,), generator=generator).tolist())
