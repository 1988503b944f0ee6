"""The worker: plans to tokens on one packed model."""

from __future__ import annotations

import pytest
import torch
from engine_support import (
    VOCABULARY,
    random_ids,
    request,
    run,
    scheduler_config,
    scripted_loop,
    tiny_config,
    tiny_model,
)

from deepseek.core.errors import ConfigError
from deepseek.engine.plan import StepPlan
from deepseek.engine.sampler import Sampled
from deepseek.engine.worker import Worker
from deepseek.models.transformer import Model


def test_an_unpacked_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be packed"):
        Worker(Model(tiny_config("grouped_query")).initialize(), 4, 8)


def test_a_cache_beyond_memory_is_refused_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"kv_bytes: the key-value cache does not fit.*found \d+ bytes"):
        Worker(tiny_model("grouped_query"), 2**46, 8)


def test_a_plan_that_crossed_a_process_border_gives_the_same_tokens() -> None:
    class Both:
        """Every plan twice, as it is and through bytes, on caches of their own."""

        def __init__(self) -> None:
            self.here, self.there = (Worker(tiny_model("latent_experts"), 64, 8) for _ in range(2))
            self.rows = 0

        def run(self, plan: StepPlan) -> Sampled:
            sampled = self.here.run(plan)
            assert self.there.run(StepPlan.from_bytes(plan.to_bytes())) == sampled
            self.rows += plan.num_rows
            return sampled

    worker = Both()
    asked = [request(f"r{i}", random_ids(5 + 9 * i, i), temperature=i / 2, seed=i, logprobs=1) for i in range(3)]
    run(scripted_loop(worker, num_blocks=64), asked)
    assert worker.rows == 24


def test_a_chunk_without_sampled_rows_gives_no_tokens() -> None:
    worker = Worker(tiny_model("grouped_query"), 64, 8)
    loop = scripted_loop(worker, num_blocks=64, max_tokens_per_step=4, max_sequences=1)
    found = run(loop, [request(prompt=random_ids(30, 1), max_tokens=3)])["r"]
    assert len(found.ids()) == 3


def test_a_row_of_logits_that_are_not_numbers_ends_its_request_alone() -> None:
    model = Model(tiny_config("grouped_query")).initialize(seed=2, std=0.25)
    assert model.embed_tokens.weight is not None
    with torch.no_grad():
        model.embed_tokens.weight[9] = torch.nan
    config = scheduler_config(num_blocks=64)
    loop = scripted_loop(Worker(model.pack(), config.num_blocks, config.block_size), num_blocks=64)
    sound, broken = request("sound", (1, 2, 3)), request("broken", (1, 9, 3))
    found = run(loop, [sound, broken])
    assert found["broken"].finish is not None and found["broken"].finish.reasons == ("error",)
    assert found["broken"].ids() == []
    if 9 not in found["sound"].ids():
        assert found["sound"].finish is not None and found["sound"].finish.reasons == ("length",)
    assert VOCABULARY > 9
