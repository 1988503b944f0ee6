"""The worker: a step plan in, tokens out. It owns the packed model and the key-value cache and knows no request."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepseek.core.engine import TokenLogprob
from deepseek.core.errors import ConfigError
from deepseek.engine.plan import DRAFT_LATER, DRAFT_NOW, DRAFT_SKIPPED, KIND_EMBED, StepPlan
from deepseek.engine.result import FAILED_ROW, StepResult
from deepseek.engine.sampling.plan import select_rows
from deepseek.engine.sampling.sampler import sample
from deepseek.engine.speculation import drafting
from deepseek.models.adapters import AdapterBank
from deepseek.models.config import ModelConfig
from deepseek.models.context import KVCache, Paged
from deepseek.models.transformer import Model

log = logging.getLogger("deepseek.engine")

LOGIT_ROWS = 64
"""Rows whose logits are held at once: scoring a long prompt takes no more memory than decoding a batch."""

MAX_PUT_OFF = 16
"""Steps that the draft layer may be behind."""


class StepWorker(Protocol):
    """What the engine needs of a worker."""

    def run(self, plan: StepPlan) -> StepResult:
        """Compute one step: write every token's keys and values, then look at the plan's rows."""
        ...


class Worker:
    """Runs plans on one packed model in this process.

    num_blocks, block_size: the cache's size, the same numbers the scheduler was given.
    drafts: whether the model's multi-token-prediction head guesses ahead; `cache_layers` are then one more.
    """

    def __init__(self, model: Model, num_blocks: int, block_size: int, *, drafts: bool = False) -> None:
        if drafts and not model.config.num_nextn_predict_layers:
            raise ConfigError(
                "the model has no multi-token-prediction head to draft with",
                where="speculation",
                found="mtp",
                expected="off, ngram or auto",
            )
        self.drafts = drafts
        self._put_off: list[tuple[StepPlan, Paged, Tensor, list[int]]] = []
        if not model.is_packed:
            raise ConfigError("a model must be packed before it serves", fix="call model.pack() or load_model(path)")
        self.model, self.num_blocks, self.block_size = model, num_blocks, block_size
        self.cache = self.new_cache()
        self.adapters = AdapterBank(model)

    def new_cache(self) -> KVCache:
        """An empty cache of this worker's size. Raises ConfigError if there is no memory for it."""
        config, slots = self.model.config, self.num_blocks * self.block_size
        try:
            return KVCache(config, slots, cache_layers(config, self.drafts))
        except (RuntimeError, MemoryError) as error:
            raise ConfigError(
                "the key-value cache does not fit into memory",
                where="kv_bytes",
                found=f"{slots * KVCache.bytes_per_token(config, cache_layers(config, self.drafts))} bytes",
                fix="give a smaller kv_bytes or max_model_len",
            ) from error

    def drop_cache(self) -> None:
        """Free the cache. No step may follow until `cache` is a whole one again."""
        self._put_off.clear()
        self.cache = KVCache(self.model.config, 0)

    def use(self, model: Model) -> None:
        """Compute with another model of the same shapes from the next step on."""
        self._put_off.clear()
        self.adapters.move_to(model)
        self.model = model

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        adapters = None
        if (plan.adapter_of_token >= 0).any():
            adapters = self.adapters.assign(_tensor(plan.adapter_of_token))
        context = Paged(
            cache=self.cache,
            positions=_tensor(plan.positions),
            slots=_tensor(plan.slots),
            seq_of_token=_tensor(plan.seq_of_token.astype(np.int32)),
            block_tables=_tensor(plan.block_tables),
            block_size=self.block_size,
            adapters=adapters,
        )
        hidden = self.model(_tensor(plan.token_ids), context)
        result = self._look(hidden, plan, context)
        if not self.drafts:
            return result
        try:
            drafts = self._draft(plan, context, hidden, result.token_ids)
        except Exception:
            log.exception("the draft layer failed; this step goes without its guesses")
            self._put_off.clear()
            drafts = [[] for _ in range(plan.num_sequences)]
        return replace(result, drafts=drafts)

    def _draft(self, plan: StepPlan, context: Paged, hidden: Tensor, token_ids: list[int]) -> list[list[int]]:
        """What becomes of the draft layer in this step, as the plan says."""
        if plan.draft_layer == DRAFT_SKIPPED:
            self._put_off.clear()
        elif plan.draft_layer == DRAFT_LATER:
            self._put_off.append((plan, context, hidden, token_ids))
        if plan.draft_layer == DRAFT_NOW or len(self._put_off) > MAX_PUT_OFF:
            for step in self._put_off:
                drafting.propose(self.model, *step, guess=False)
            self._put_off.clear()
        if plan.draft_layer == DRAFT_NOW:
            return drafting.propose(self.model, plan, context, hidden, token_ids)
        return [[] for _ in range(plan.num_sequences)]

    def _look(self, hidden: Tensor, plan: StepPlan, context: Paged) -> StepResult:
        """Sample, score or copy the plan's rows of `hidden` [T, D]."""
        if not plan.num_rows:
            return StepResult([], [])
        embeds = plan.row_kind == KIND_EMBED
        if plan.num_rows <= LOGIT_ROWS and not embeds.any():
            whole = plan.num_rows == plan.num_tokens
            sampled = sample(
                self._logits(hidden, None if whole else plan.rows, context),
                plan.sampling,
                plan.row_kind,
                plan.row_target,
            )
            return StepResult(sampled.token_ids, sampled.logprobs)
        token_ids: list[int] = [FAILED_ROW] * plan.num_rows
        logprobs: list[TokenLogprob | None] = [None] * plan.num_rows
        looked = np.flatnonzero(~embeds)
        for start in range(0, len(looked), LOGIT_ROWS):
            part = looked[start : start + LOGIT_ROWS]
            sampled = sample(
                self._logits(hidden, plan.rows[part], context),
                select_rows(plan.sampling, part),
                plan.row_kind[part],
                plan.row_target[part],
            )
            for row, token, logprob in zip(part.tolist(), sampled.token_ids, sampled.logprobs, strict=True):
                token_ids[row], logprobs[row] = token, logprob
        if not embeds.any():
            return StepResult(token_ids, logprobs)
        embeddings = hidden[torch.from_numpy(plan.rows[embeds])].numpy()
        for row, sound in zip(np.flatnonzero(embeds).tolist(), np.isfinite(embeddings).all(axis=1), strict=True):
            token_ids[row] = -1 if not sound else 0
        return StepResult(token_ids, logprobs, embeddings)

    def _logits(self, hidden: Tensor, rows: npt.NDArray[np.int64] | None, context: Paged) -> Tensor:
        """Of these rows of `hidden`; None: of all."""
        adapters = context.adapters
        if rows is None:
            return self.model.logits(hidden, adapters)
        index = _tensor(rows)
        return self.model.logits(hidden[index], None if adapters is None else adapters.at(index))


def cache_layers(config: ModelConfig, drafts: bool) -> int:
    """Layers that keep keys and values: the model's, and the draft layer if it is used."""
    return config.num_hidden_layers + drafts


def _tensor(array: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Tensor:
    # A plan read from bytes is read-only, which torch has no notion of.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
