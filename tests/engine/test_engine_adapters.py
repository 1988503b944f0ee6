"""Requests with different adapters, and with none, share steps and cache without touching each other's bits."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from engine_support import KINDS, ByteTable, Inbox, Kind, random_ids, request, run, scheduler_config, tiny_config
from safetensors.torch import save

from deepseek.core.engine import Request
from deepseek.engine.loop import EngineLoop
from deepseek.engine.worker import Worker
from deepseek.models.adapter_files import read_adapter
from deepseek.models.adapters import Adapter, adaptable
from deepseek.models.transformer import Model

NAMES = ("first", "second")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


def fresh_model(kind: Kind) -> Model:
    return Model(tiny_config(kind)).initialize(seed=1, std=0.25).pack()


def adapter_files(model: Model, seed: int, rank: int) -> dict[str, bytes]:
    """An adapter of every linear layer, as PEFT would save it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in adaptable(model).items():
        for part, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            matrix = torch.randn(shape, generator=generator) * 0.5 / shape[1] ** 0.5
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = matrix
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


@cache
def model_with_adapters(kind: Kind) -> tuple[Model, list[Adapter]]:
    """One for all loops: each installs the same adapters under the same handles."""
    model = fresh_model(kind)
    return model, [read_adapter(adapter_files(model, seed, 3 + seed), model) for seed in range(len(NAMES))]


def adapted_loop(kind: Kind, **changes: int | bool) -> EngineLoop:
    """A loop whose model has the adapters "first" and "second"."""
    (model, adapters), config = model_with_adapters(kind), scheduler_config(**changes)
    worker = Worker(model, config.num_blocks, config.block_size)
    loop = EngineLoop(worker, ByteTable(), config, vocab_size=model.config.vocab_size)
    for name, adapter in zip(NAMES, adapters, strict=True):
        handle = loop.new_adapter_handle()
        worker.adapters.install(handle, adapter)
        loop.publish_adapter(name, handle)
    return loop


def asking(name: str, prompt: tuple[int, ...], adapter: str | None, **sampling: object) -> Request:
    fields = {"max_tokens": 8, "temperature": 0.8, "seed": 5, "logprobs": 2} | sampling
    return replace(request(name, prompt, **fields), adapter=adapter)


def answer(inbox: Inbox) -> tuple[object, ...]:
    return inbox.ids(), inbox.logprobs()


def test_a_mixed_batch_answers_every_request_as_it_is_answered_alone(kind: Kind) -> None:
    requests = [
        asking(f"{adapter}-{number}", random_ids(5 + 13 * number, number), adapter)
        for number in range(3)
        for adapter in (None, *NAMES)
    ]
    together = run(adapted_loop(kind, max_tokens_per_step=32, max_sequences=16), requests)
    for one in requests:
        alone = run(adapted_loop(kind, prefix_cache=False), [one])[one.id]
        assert answer(together[one.id]) == answer(alone)


def test_a_request_without_an_adapter_is_answered_by_the_base_model(kind: Kind) -> None:
    requests = [asking(str(adapter), random_ids(20, 3), adapter) for adapter in (None, *NAMES)]
    together = run(adapted_loop(kind), requests)
    config = scheduler_config()
    model = fresh_model(kind)
    plain = EngineLoop(Worker(model, config.num_blocks, config.block_size), ByteTable(), config, vocab_size=256)
    assert answer(together["None"]) == answer(run(plain, requests[:1])["None"])
    assert len({str(answer(inbox)) for inbox in together.values()}) == len(requests)


def test_keys_and_values_of_one_adapter_are_never_found_by_another(kind: Kind) -> None:
    loop, prompt = adapted_loop(kind), random_ids(60, 4)
    for adapter in (None, *NAMES, *NAMES, None):
        asked = asking("r", prompt, adapter)
        alone = run(adapted_loop(kind, prefix_cache=False), [asked])["r"]
        assert answer(run(loop, [asked])["r"]) == answer(alone)


def test_every_choice_of_a_request_has_its_adapter(kind: Kind) -> None:
    asked = [asking("many", random_ids(20, 6), "second", n=3), asking("none", random_ids(20, 6), None, n=3)]
    together = run(adapted_loop(kind), asked)
    for one in asked:
        alone = run(adapted_loop(kind), [one])[one.id]
        for choice in range(3):
            assert together[one.id].ids(choice) == alone.ids(choice)
            assert together[one.id].logprobs(choice) == alone.logprobs(choice)
