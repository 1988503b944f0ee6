"""Models with one set of weights or another, and engines on them whose steps go one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from engine_support import (
    PATIENCE_S,
    ByteTable,
    GatedWorker,
    Kind,
    request,
    scheduler_config,
    tiny_config,
)
from safetensors.torch import save_file
from torch import Tensor

from deepseek.core.engine import Event, Finish, Request, Tokens
from deepseek.engine.engine import Engine
from deepseek.engine.loop import EngineLoop
from deepseek.engine.weights import Weights
from deepseek.engine.worker import Worker
from deepseek.models.adapters import adaptable
from deepseek.models.checkpoint import save_model
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model


def fresh_model(kind: Kind, seed: int) -> Model:
    return Model(tiny_config(kind)).initialize(seed=seed, std=0.25)


@cache
def tensors_of(kind: Kind, seed: int) -> dict[str, Tensor]:
    return {name: slot.stored()[0].clone() for name, slot in hf_slots(fresh_model(kind, seed)).items()}


def checkpoint(path: Path, kind: Kind, seed: int) -> Path:
    save_model(fresh_model(kind, seed), path)
    return path


def hold_steps(model: Model, path: Path | None = None, **changes: Any) -> tuple[Engine, GatedWorker, Weights]:
    config = scheduler_config(**changes)
    worker = Worker(model, config.num_blocks, config.block_size)
    gate = GatedWorker(worker)
    weights = Weights(worker, path)
    loop = EngineLoop(gate, ByteTable(), config, vocab_size=model.config.vocab_size)
    return Engine(loop, weights), gate, weights


@contextmanager
def serving(model: Model, path: Path | None = None, **changes: Any) -> Iterator[tuple[Engine, GatedWorker]]:
    """An engine whose steps go one by one until `open_for_good`; closed and checked at the end."""
    engine, gate, _ = hold_steps(model, path, **changes)
    del model  # the engine alone holds it
    try:
        yield engine, gate
    finally:
        gate.open_for_good()
        asyncio.run(asyncio.wait_for(engine.close(), PATIENCE_S))
        engine.loop.scheduler.check()
        assert engine.loop.load().blocks_used == 0 and not engine.loop.has_work


def go(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE_S))


async def steps(gate: GatedWorker, count: int) -> None:
    """Let `count` steps through and wait until the next one stands at the gate."""
    for _ in range(count):
        gate.open()
    for _ in range(count):
        await asyncio.to_thread(gate.wait_entered)


@dataclass
class Reader:
    """A stream read as it comes."""

    asked: Request
    task: asyncio.Task[list[Event]]

    async def events(self) -> list[Event]:
        return await self.task


def read(engine: Engine, asked: Request) -> Reader:
    stream = engine.generate(asked)

    async def collect(stream: AsyncIterator[Event]) -> list[Event]:
        return [event async for event in stream]

    return Reader(asked, asyncio.create_task(collect(stream)))


def finish_of(events: list[Event]) -> Finish:
    assert [type(event) for event in events].count(Finish) == 1
    last = events[-1]
    assert isinstance(last, Finish)
    return last


def versions_of(events: list[Event], choice: int = 0) -> list[int]:
    """The weights version of every token, in order."""
    return [
        event.weights_version
        for event in events
        if isinstance(event, Tokens) and event.choice == choice
        for _ in event.token_ids
    ]


def ids_of(events: list[Event], choice: int = 0) -> list[int]:
    return [
        token for event in events if isinstance(event, Tokens) and event.choice == choice for token in event.token_ids
    ]


def logprobs_of(events: list[Event], choice: int = 0) -> list[float]:
    return [
        entry.logprob
        for event in events
        if isinstance(event, Tokens) and event.choice == choice
        for entry in event.logprobs or ()
    ]


async def alone(model: Model, asked: Request) -> list[Event]:
    """What a fresh engine on this model answers."""
    engine, gate, _ = hold_steps(model)
    gate.open_for_good()
    events = [event async for event in engine.generate(asked)]
    await engine.close()
    return events


def continuation(asked: Request, prefix: list[int], seed: int | None = None) -> Request:
    """The same request with `prefix` of its output already in the prompt."""
    sampling = asked.sampling
    return request(
        "again",
        (*asked.prompt_ids, *prefix),
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens - len(prefix),
        seed=seed if sampling.seed is None else sampling.seed,
        logprobs=sampling.logprobs,
    )


def write_adapter(path: Path, model: Model, seed: int) -> Path:
    """An adapter of every linear layer, as PEFT would save it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in adaptable(model).items():
        for part, shape in (("A", (3, layer.in_features)), ("B", (layer.out_features, 3))):
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = torch.randn(shape, generator=generator) * 0.2
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": "all-linear"}
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path
