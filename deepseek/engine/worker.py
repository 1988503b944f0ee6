"""The worker: a step plan in, tokens out. It owns the packed model and the key-value cache and knows no request."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.engine.plan import StepPlan
from deepseek.engine.sampler import Sampled, sample
from deepseek.models.context import KVCache, Paged
from deepseek.models.transformer import Model


class StepWorker(Protocol):
    """What the engine needs of a worker."""

    def run(self, plan: StepPlan) -> Sampled:
        """Compute one step: write every token's keys and values, then sample the plan's rows."""
        ...


class Worker:
    """Runs plans on one packed model in this process.

    num_blocks, block_size: the cache's size, the same numbers the scheduler was given.
    """

    def __init__(self, model: Model, num_blocks: int, block_size: int) -> None:
        if not model.is_packed:
            raise ConfigError("a model must be packed before it serves", fix="call model.pack() or load_model(path)")
        self.model, self.block_size = model, block_size
        try:
            self.cache = KVCache(model.config, num_blocks * block_size)
        except RuntimeError as error:
            raise ConfigError(
                "the key-value cache does not fit into memory",
                where="kv_bytes",
                found=f"{num_blocks * block_size * KVCache.bytes_per_token(model.config)} bytes",
                fix="give a smaller kv_bytes or max_model_len",
            ) from error

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Sampled:
        context = Paged(
            cache=self.cache,
            positions=_tensor(plan.positions),
            slots=_tensor(plan.slots),
            seq_of_token=_tensor(plan.seq_of_token.astype(np.int32)),
            block_tables=_tensor(plan.block_tables),
            block_size=self.block_size,
        )
        hidden = self.model(_tensor(plan.token_ids), context)
        if not plan.num_rows:
            return Sampled([], [])
        return sample(self.model.logits(hidden[_tensor(plan.rows)]), plan.sampling)


def _tensor(array: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Tensor:
    # A plan read from bytes is read-only, which torch has no notion of.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
