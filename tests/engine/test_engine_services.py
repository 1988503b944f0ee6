"""Scores, embeddings, adapters and constraints through the engine on its thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_support import KINDS, GatedWorker, Kind, random_ids, request, scheduler_config
from weights_support import (
    alone,
    finish_of,
    fresh_model,
    go,
    ids_of,
    read,
    serving,
    steps,
    tensors_of,
    versions_of,
    write_adapter,
)

from deepseek.core.constraint import Constraint
from deepseek.core.engine import Engine as EngineProtocol
from deepseek.core.engine import Request, Tokens
from deepseek.core.errors import AdmissionError, CheckpointError, ConfigError, EngineError
from deepseek.engine.engine import Engine
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.loop import EngineLoop
from deepseek.engine.weights import Weights
from deepseek.engine.worker import Worker
from deepseek.models.context import Packed
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Model

PROMPT = random_ids(30, 3)


def model_of(kind: Kind = "grouped_query", seed: int = 1) -> Model:
    return fresh_model(kind, seed).pack()


def with_adapter(name: str, adapter: str | None, max_tokens: int = 12) -> Request:
    return replace(request(name, PROMPT, max_tokens=max_tokens), adapter=adapter)


def unit(vector: torch.Tensor) -> Any:
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_embeddings_are_those_of_the_model_itself(kind: Kind) -> None:
    model = model_of(kind)
    with torch.inference_mode():
        hidden = model(torch.tensor(PROMPT), Packed.of([len(PROMPT)]))
        expected = model.logits(hidden).double().log_softmax(-1)

    async def main() -> None:
        gate.open_for_good()
        asked = request("s", PROMPT, prompt_logprobs=2, max_tokens=50, n=3, min_tokens=4)
        scores = await engine.score(asked)
        assert scores.start == 0 and len(scores.logprobs) == len(PROMPT) and scores.logprobs[0] is None
        for at, entry in enumerate(scores.logprobs[1:], 1):
            assert entry is not None and entry.token_id == PROMPT[at] and len(entry.top) == 2
            assert abs(entry.logprob - expected[at - 1, PROMPT[at]].item()) < 1e-6
        plain = await engine.score(request("p", PROMPT))
        assert [entry.logprob for entry in plain.logprobs[1:]] == [entry.logprob for entry in scores.logprobs[1:]]  # type: ignore[union-attr]
        last = await engine.encode(request("last", PROMPT))
        mean = await engine.encode(replace(request("mean", PROMPT), pooling="mean"))
        assert last.values.dtype == np.float32
        np.testing.assert_allclose(last.values, unit(hidden[-1]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mean.values, unit(hidden.mean(0)), rtol=1e-5, atol=1e-6)

    with serving(model, max_tokens_per_step=64) as (engine, gate):
        go(main())


def test_a_score_that_is_aborted_is_an_error_of_its_caller() -> None:
    async def main() -> None:
        scoring = asyncio.create_task(engine.score(request("s", PROMPT)))
        embedding = asyncio.create_task(engine.encode(request("e", PROMPT)))
        await asyncio.to_thread(gate.wait_entered)
        await engine.abort("s")
        await engine.abort("e")
        for task in (scoring, embedding):
            with pytest.raises(EngineError, match="the request ended early: cancelled"):
                await task
        with pytest.raises(AdmissionError, match="the prompt has no tokens"):
            await engine.score(request("none", ()))

    with serving(model_of()) as (engine, gate):
        go(main())


def test_scores_and_embeddings_after_a_swap_are_of_one_version() -> None:
    long = random_ids(120, 8)

    async def main() -> None:
        scoring = asyncio.create_task(engine.score(request("s", long)))
        embedding = asyncio.create_task(engine.encode(replace(request("e", long), pooling="mean")))
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 2)  # chunks of it are done
        swap = asyncio.create_task(engine.update_weights(tensors_of("grouped_query", 2)))
        while not engine._mail.qsize():
            await asyncio.sleep(0)
        gate.open_for_good()
        await swap
        scores, embedded = await scoring, await embedding
        assert scores.weights_version == embedded.weights_version == 1
        model = model_of(seed=2)
        with torch.inference_mode():
            hidden = model(torch.tensor(long), Packed.of([len(long)]))
            expected = model.logits(hidden).double().log_softmax(-1)
        np.testing.assert_allclose(embedded.values, unit(hidden.mean(0)), rtol=1e-5, atol=1e-6)
        found = [entry.logprob for entry in scores.logprobs if entry is not None]
        wanted = [expected[at - 1, long[at]].item() for at in range(1, len(long))]
        np.testing.assert_allclose(found, wanted, atol=1e-5)

    with serving(model_of(), max_tokens_per_step=32, max_sequences=8) as (engine, gate):
        go(main())


def test_an_adapter_is_loaded_used_replaced_and_freed(tmp_path: Path) -> None:
    base = model_of()
    first, second = (write_adapter(tmp_path / str(seed), base, seed) for seed in (5, 6))

    async def main() -> None:
        gate.open_for_good()
        worker = engine._administration._weights.worker
        with pytest.raises(AdmissionError, match="adapter: no adapter of this name is loaded; found style") as error:
            engine.generate(with_adapter("r", "style"))
        assert error.value.reason == "unknown_model"
        assert await engine.load_adapter("style", first) == 1
        plain = await read(engine, with_adapter("r", None)).events()
        styled = await read(engine, with_adapter("r", "style")).events()
        assert ids_of(plain) == ids_of(await alone(model_of(), with_adapter("r", None))) != ids_of(styled)
        assert await engine.load_adapter("style", second) == 2
        assert worker.adapters.handles == {2}
        assert ids_of(await read(engine, with_adapter("r", "style")).events()) != ids_of(styled)
        await engine.unload_adapter("style")
        assert worker.adapters.handles == frozenset() and worker.adapters.nbytes == 0
        with pytest.raises(ConfigError, match="no adapter of this name is loaded"):
            await engine.unload_adapter("style")
        with pytest.raises((CheckpointError, ConfigError)):
            await engine.load_adapter("style", tmp_path / "nowhere")
        assert engine.load().running == 0

    with serving(base) as (engine, gate):
        go(main())


def test_requests_alive_keep_their_adapters_version_and_unloading_waits_for_them(tmp_path: Path) -> None:
    base = model_of()
    first, second = (write_adapter(tmp_path / str(seed), base, seed) for seed in (5, 6))

    async def main() -> None:
        worker = engine._administration._weights.worker
        loading = asyncio.create_task(engine.load_adapter("style", first))
        assert await loading == 1
        expected_reader = read(engine, with_adapter("x", "style", 6))
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 2)
        reloading = asyncio.create_task(engine.load_adapter("style", second))
        while not engine._mail.qsize():
            await asyncio.sleep(0)
        gate.open()
        assert await reloading == 2 and worker.adapters.handles == {1, 2}
        young = read(engine, with_adapter("y", "style", 6))
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 1)
        unloading = asyncio.create_task(engine.unload_adapter("style"))
        await asyncio.sleep(0)
        with pytest.raises(AdmissionError, match="no adapter of this name"):
            engine.generate(with_adapter("z", "style"))
        assert not unloading.done() and 2 in worker.adapters.handles
        gate.open_for_good()
        old_ids, young_ids = ids_of(await expected_reader.events()), ids_of(await young.events())
        await unloading
        await read(engine, request("last")).events()
        assert worker.adapters.handles == frozenset()
        for path, ids in ((first, old_ids), (second, young_ids)):
            await engine.load_adapter("again", path)
            assert ids_of(await read(engine, with_adapter("r", "again", 6)).events()) == ids

    with serving(base) as (engine, gate):
        go(main())


def test_adapters_survive_other_weights_and_sleep(tmp_path: Path) -> None:
    path = write_adapter(tmp_path, model_of(), 5)

    async def answer(engine: Engine) -> list[int]:
        return ids_of(await read(engine, with_adapter("r", "style")).events())

    async def main() -> None:
        gate.open_for_good()
        await engine.load_adapter("style", path)
        before = await answer(engine)
        await engine.update_weights(tensors_of("grouped_query", 2))
        after = await answer(engine)
        assert after != before
        await engine.sleep()
        await engine.wake()
        assert await answer(engine) == after
        await engine.update_weights(tensors_of("grouped_query", 1))
        assert await answer(engine) == before

    with serving(model_of()) as (engine, gate):
        go(main())


def test_closing_ends_the_wait_for_an_adapter_to_be_free(tmp_path: Path) -> None:
    base = model_of()
    path = write_adapter(tmp_path, base, 5)

    async def main() -> None:
        await engine.load_adapter("style", path)
        reader = read(engine, with_adapter("r", "style", 200))
        await asyncio.to_thread(gate.wait_entered)
        unloading = asyncio.create_task(engine.unload_adapter("style"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        gate.open_for_good()
        await closing
        assert finish_of(await reader.events()).reasons == ("cancelled",)
        assert isinstance((await asyncio.gather(unloading, return_exceptions=True))[0], EngineError | None)
        with pytest.raises(EngineError, match="closed"):
            await engine.unload_adapter("style")

    with serving(base) as (engine, gate):
        go(main())


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_dir(builtin_dir())


@contextmanager
def constrained() -> Iterator[tuple[Engine, GatedWorker]]:
    size, config = tokenizer().vocab_size, scheduler_config(eos_token_ids=frozenset(tokenizer().eos_ids))
    from engine_support import tiny_config

    model = Model(tiny_config("grouped_query", size)).initialize(seed=1, std=0.25).pack()
    worker = Worker(model, config.num_blocks, config.block_size)
    gate = GatedWorker(worker)
    loop = EngineLoop(gate, tokenizer(), config, vocab_size=size)
    engine = Engine(loop, Weights(worker), GrammarCompiler(tokenizer(), size, sorted(tokenizer().eos_ids)))
    try:
        yield engine, gate
    finally:
        gate.open_for_good()
        asyncio.run(engine.close())
        engine.loop.scheduler.check()


def ruled(name: str, constraint: Constraint, **sampling: object) -> Request:
    return replace(request(name, (5, 6, 7), **({"max_tokens": 40} | sampling)), constraint=constraint)


def test_a_constraint_is_compiled_and_obeyed_and_one_that_cannot_be_is_refused_alone() -> None:
    async def main() -> None:
        gate.open_for_good()
        choice = Constraint.choice(["yes", "no"])
        free = read(engine, request("free", (5, 6, 7)))
        events = await read(engine, ruled("r", choice, n=2)).events()
        for index in range(2):
            text = "".join(e.text for e in events if isinstance(e, Tokens) and e.choice == index)
            assert text in ("yes", "no")
        assert finish_of(events).reasons == ("stop", "stop")
        with pytest.raises(AdmissionError):
            await read(engine, ruled("bad", Constraint.regex("(unclosed"))).events()
        assert finish_of(await free.events()).reasons == ("length",)
        assert not engine._preparing

    with constrained() as (engine, gate):
        go(main())


def test_a_request_whose_constraint_is_compiling_can_be_aborted_dropped_and_closed() -> None:
    async def main() -> None:
        gate.open_for_good()
        choice = Constraint.choice(["yes", "no"])
        with pytest.raises(AdmissionError, match="the prompt has no tokens"):
            engine.generate(replace(ruled("none", choice), prompt_ids=()))
        aborted = read(engine, ruled("aborted", choice, n=2))
        with pytest.raises(AdmissionError, match="a live request has this id"):
            engine.generate(request("aborted"))
        await engine.abort("aborted")
        assert finish_of(await aborted.events()).reasons == ("cancelled", "cancelled")
        stream = engine.generate(ruled("dropped", choice))
        del stream
        closed = read(engine, ruled("closed", Constraint.choice(["other"])))
        await asyncio.sleep(0)
        await engine.close()
        assert finish_of(await closed.events()).reasons in (("cancelled",), ("stop",))
        assert not engine._preparing and not engine.loop.has_work

    with constrained() as (engine, gate):
        go(main())


def test_an_engine_without_grammars_refuses_constraints_at_once() -> None:
    async def main() -> None:
        with pytest.raises(AdmissionError, match="constraint: this engine has no grammars"):
            engine.generate(ruled("r", Constraint.choice(["a"])))

    with serving(model_of()) as (engine, _):
        go(main())


def test_it_is_an_engine() -> None:
    async def main() -> None:
        served: EngineProtocol = engine
        assert not served.is_sleeping and served.load().weights_version == 0
        assert set(versions_of(await read(engine, request()).events())) == {0}

    with serving(model_of()) as (engine, gate):
        gate.open_for_good()
        go(main())


def test_two_live_requests_never_share_an_id_whatever_the_second_needs() -> None:
    async def main() -> None:
        first = read(engine, request("same", (5, 6, 7)))
        with pytest.raises(AdmissionError, match="a live request has this id"):
            engine.generate(ruled("same", Constraint.choice(["yes"])))
        gate.open_for_good()
        assert finish_of(await first.events()).reasons == ("length",)

    with constrained() as (engine, gate):
        go(main())
