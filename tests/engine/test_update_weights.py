"""Other weights under load: nothing is lost, nothing is mixed up, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import KINDS, Kind, ScriptedWorker, random_ids, request, scripted_loop, tiny_config
from weights_support import (
    alone,
    checkpoint,
    continuation,
    finish_of,
    fresh_model,
    go,
    ids_of,
    logprobs_of,
    read,
    serving,
    steps,
    tensors_of,
    versions_of,
)

from deepseek.core.errors import CheckpointError, ConfigError, DeepSeekError, EngineError
from deepseek.engine.engine import Engine
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.transformer import Model

OLD, NEW = 1, 2


def old_model(kind: Kind = "grouped_query") -> Model:
    return fresh_model(kind, OLD).pack()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["path", "tensors"])
def test_recompute_goes_on_with_the_tokens_the_new_weights_give_that_prefix(
    kind: Kind, form: str, tmp_path: Path
) -> None:
    asked = [
        request(f"r{i}", random_ids(5 + 11 * i, i), max_tokens=12, temperature=i % 2, seed=i, logprobs=0)
        for i in range(3)
    ]
    source: Any = checkpoint(tmp_path / "new", kind, NEW) if form == "path" else tensors_of(kind, NEW)
    old, new = old_model(kind), fresh_model(kind, NEW).pack()
    if form == "path":
        old = load_model(checkpoint(tmp_path / "old", kind, OLD))

    async def main() -> None:
        readers = [read(engine, one) for one in asked]
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 5)
        swap = asyncio.create_task(engine.update_weights(source))
        while not engine._mail.qsize() and not swap.done():  # the swap waits for the step that stands at the gate
            await asyncio.sleep(0)
        gate.open_for_good()
        assert await swap == 1 and engine.load().weights_version == 1
        for reader in readers:
            events = await reader.events()
            assert finish_of(events).reasons == ("length",)
            ids, versions = ids_of(events), versions_of(events)
            assert len(ids) == 12 and versions == sorted(versions) and set(versions) == {0, 1}
            kept = versions.count(0)
            assert ids[:kept] == ids_of(await alone(old, reader.asked))[:kept]
            expected = await alone(new, continuation(reader.asked, ids[:kept]))
            assert ids[kept:] == ids_of(expected)
            assert logprobs_of(events)[kept:] == logprobs_of(expected)

    with serving(old) as (engine, gate):
        go(main())


def test_drain_lets_what_was_started_end_on_the_old_weights_and_the_rest_begin_on_the_new() -> None:
    started = [request(f"s{i}", random_ids(7 + i, i), max_tokens=10, n=1 + 2 * i, seed=i) for i in range(2)]
    waiting = [request(f"w{i}", random_ids(6 + i, 9 + i), max_tokens=6, seed=i) for i in range(3)]

    async def main() -> None:
        first = [read(engine, one) for one in started]
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 2)
        second = [read(engine, one) for one in waiting[:2]]
        swap = asyncio.create_task(engine.update_weights(tensors_of("grouped_query", NEW), "drain"))
        while not engine.loop.scheduler.draining:
            await asyncio.sleep(0)
        second.append(read(engine, waiting[2]))
        gate.open_for_good()
        assert await swap == 1
        for reader in first:
            events = await reader.events()
            for choice in range(reader.asked.sampling.n):
                assert versions_of(events, choice) == [0] * 10
            assert ids_of(events) == ids_of(await alone(old_model(), reader.asked))
        new = fresh_model("grouped_query", NEW).pack()
        for reader in second:
            events = await reader.events()
            assert versions_of(events) == [1] * 6
            assert ids_of(events) == ids_of(await alone(new, reader.asked))

    # Three places: one choice of a request that was started waits when the drain begins.
    with serving(old_model(), max_sequences=3) as (engine, gate):
        go(main())


def test_a_sequence_preempted_while_draining_still_ends_on_the_old_weights() -> None:
    asked = [request(f"r{i}", random_ids(15, i), max_tokens=40, seed=i) for i in range(3)]

    async def main() -> None:
        readers = [read(engine, one) for one in asked]
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 2)
        swap = asyncio.create_task(engine.update_weights(tensors_of("grouped_query", NEW), "drain"))
        while not engine.loop.scheduler.draining:
            await asyncio.sleep(0)
        gate.open_for_good()
        await swap
        assert engine.load().preemptions > 0
        for reader in readers:
            events = await reader.events()
            assert versions_of(events) == [0] * 40
            assert ids_of(events) == ids_of(await alone(old_model(), reader.asked))

    with serving(old_model(), num_blocks=12) as (engine, gate):
        go(main())


@pytest.mark.parametrize("during_step", [True, False])
def test_a_drain_ends_when_those_it_waits_for_are_aborted(during_step: bool) -> None:
    async def main() -> None:
        readers = [read(engine, request(f"r{i}", max_tokens=200)) for i in range(3)]
        await asyncio.to_thread(gate.wait_entered)
        swap = asyncio.create_task(engine.update_weights(tensors_of("grouped_query", NEW), "drain"))
        while not engine.loop.scheduler.draining:
            await asyncio.sleep(0)
        if not during_step:
            gate.open_for_good()
        for index in range(3):
            await engine.abort(f"r{index}")
        gate.open_for_good()
        assert await swap == 1
        for reader in readers:
            assert finish_of(await reader.events()).reasons == ("cancelled",)

    with serving(old_model()) as (engine, gate):
        go(main())


def test_updates_queue_up_and_each_gets_its_version() -> None:
    async def main() -> None:
        reader = read(engine, request(max_tokens=200, ignore_eos=True))
        gate.open_for_good()
        versions = await asyncio.gather(
            *(engine.update_weights(tensors_of("grouped_query", seed)) for seed in (2, 3, 4, 5))
        )
        assert versions == [1, 2, 3, 4]
        events = await reader.events()
        found = versions_of(events)
        assert found == sorted(found) and len(found) == 200
        last = await alone(fresh_model("grouped_query", 5).pack(), request("r2", (5, 6, 7)))
        assert ids_of(await read(engine, request("r2", (5, 6, 7))).events()) == ids_of(last)

    with serving(old_model()) as (engine, gate):
        go(main())


def test_some_tensors_alone_are_replaced_and_all_others_shared() -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    changed = {name: tensors_of("grouped_query", NEW)[name]}
    mixed = fresh_model("grouped_query", OLD)
    with torch.no_grad():
        mixed.layers[1].mlp.up_proj.weight.copy_(changed[name])  # type: ignore[union-attr]

    async def main() -> None:
        gate.open_for_good()
        before = engine._administration._weights.worker.model
        await engine.update_weights(changed)
        after = engine._administration._weights.worker.model
        assert after is not before
        assert after.layers[0].mlp.up_proj.packed is before.layers[0].mlp.up_proj.packed
        assert after.layers[1].mlp.up_proj.packed is not before.layers[1].mlp.up_proj.packed
        asked = request(prompt=random_ids(20, 3), max_tokens=16)
        assert ids_of(await read(engine, asked).events()) == ids_of(await alone(mixed.pack(), asked))

    with serving(old_model()) as (engine, gate):
        go(main())


def broken_sources(tmp_path: Path) -> dict[str, tuple[Any, str]]:
    good = tensors_of("grouped_query", NEW)
    norm, up = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"
    other = tmp_path / "other"
    save_model(Model(replace(tiny_config("grouped_query"), num_hidden_layers=3)).initialize(), other)
    rope = tmp_path / "rope"
    config = tiny_config("grouped_query")
    save_model(Model(replace(config, rope=replace(config.rope, theta=5.0))).initialize(), rope)
    damaged = checkpoint(tmp_path / "damaged", "grouped_query", NEW)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    return {
        "unknown name": (
            {**good, "model.layers.9.x": good[norm]},
            r"model\.layers\.9\.x: is a tensor the model has no",
        ),
        "wrong shape": ({**good, norm: torch.ones(7)}, r"model\.norm\.weight: has the wrong shape.*\[7\].*\[48\]"),
        "wrong type": (
            {**good, up: good[up].int()},
            r"up_proj\.weight: has a type that does not fit; found torch.int32",
        ),
        "no tensor": ({norm: [1.0]}, r"model\.norm\.weight: is no dense tensor in memory; found list"),
        "nothing": ({}, "no tensors were given"),
        "fp8 alone": ({up: good[up].to(torch.float8_e4m3fn)}, r"up_proj\.weight: has no fitting block scales"),
        "other model": (other, r"config\.json: num_hidden_layers: is not the model being served; found 3; expected 2"),
        "other rope": (rope, r"config\.json: rope\.theta: is not the model being served; found 5\.0"),
        "damaged": (damaged, "is not a whole safetensors file"),
        "nowhere": (tmp_path / "nowhere", "no such model"),
    }


def test_what_does_not_fit_is_refused_by_name_and_the_old_weights_go_on(tmp_path: Path) -> None:
    asked = request(prompt=random_ids(30, 1), max_tokens=60, logprobs=0)

    async def main() -> None:
        reader = read(engine, asked)
        gate.open_for_good()
        for source, message in broken_sources(tmp_path).values():
            for mode in ("recompute", "drain"):
                with pytest.raises((ConfigError, CheckpointError), match=message):
                    await engine.update_weights(source, mode)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="mode: unknown; found 'now'"):
            await engine.update_weights(tensors_of("grouped_query", NEW), "now")  # type: ignore[arg-type]
        events = await reader.events()
        assert set(versions_of(events)) == {0} and engine.load().weights_version == 0
        expected = await alone(old_model(), asked)
        assert ids_of(events) == ids_of(expected) and logprobs_of(events) == logprobs_of(expected)

    with serving(old_model()) as (engine, gate):
        go(main())


def test_a_swap_that_fails_between_two_steps_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(max_tokens=100)

    async def main() -> None:
        reader = read(engine, asked)
        worker = engine._administration._weights.worker

        def fail(model: Model) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(worker, "use", fail)
        gate.open_for_good()
        for mode in ("recompute", "drain"):
            with pytest.raises(MemoryError, match="no room"):
                await engine.update_weights(tensors_of("grouped_query", NEW), mode)  # type: ignore[arg-type]
        assert ids_of(await reader.events()) == ids_of(await alone(old_model(), asked))
        assert finish_of(await read(engine, request("after")).events()).reasons == ("length",)

    with serving(old_model()) as (engine, gate):
        go(main())


@pytest.mark.parametrize("mode", ["recompute", "drain"])
def test_closing_while_an_update_waits_ends_the_update_and_every_request(mode: Any) -> None:
    async def main() -> None:
        readers = [read(engine, request(f"r{i}", max_tokens=200)) for i in range(3)]
        await asyncio.to_thread(gate.wait_entered)
        swap = asyncio.create_task(engine.update_weights(tensors_of("grouped_query", NEW), mode))
        while not engine._mail.qsize():
            await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        with pytest.raises(EngineError, match="closed"):
            await swap
        gate.open_for_good()
        await closing
        for reader in readers:
            assert finish_of(await reader.events()).reasons == ("cancelled",)
        with pytest.raises(EngineError, match="closed"):
            await engine.update_weights(tensors_of("grouped_query", NEW))

    with serving(old_model()) as (engine, gate):
        go(main())


def test_closing_does_not_wait_for_weights_that_are_still_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, let_go = threading.Event(), threading.Event()

    async def main() -> None:
        weights = engine._administration._weights

        def slow(source: object) -> Any:
            reading.set()
            assert let_go.wait(30)
            raise RuntimeError("nobody hears this")

        monkeypatch.setattr(weights, "read", slow)
        swaps = [asyncio.create_task(engine.update_weights(Path("x"))) for _ in range(2)]
        await asyncio.to_thread(reading.wait, 30)
        await engine.close()
        for swap in swaps:
            with pytest.raises(EngineError, match="closed"):
                await swap
        let_go.set()

    with serving(old_model()) as (engine, _):
        go(main())


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_updates_leave_one_model_behind(kind: Kind) -> None:
    names = [name for name in tensors_of(kind, NEW) if "layers.1" in name]

    async def main() -> None:
        gate.open_for_good()
        reader = read(engine, request(max_tokens=200))
        weights = engine._administration._weights
        models = [weakref.ref(weights.worker.model)]
        packed = [weakref.ref(weights.worker.model.layers[1].self_attn.o_proj.packed)]  # type: ignore[union-attr]
        for index in range(20):
            whole = tensors_of(kind, 2 + index % 3)
            part = {name: whole[name] for name in names}
            await engine.update_weights(part, "drain" if index == 10 else "recompute")
            models.append(weakref.ref(weights.worker.model))
            packed.append(weakref.ref(weights.worker.model.layers[1].self_attn.o_proj.packed))  # type: ignore[union-attr]
        await reader.events()
        gc.collect()
        assert [ref() is not None for ref in models] == [False] * 20 + [True]
        assert [ref() is not None for ref in packed] == [False] * 20 + [True]

    with serving(fresh_model(kind, OLD).pack()) as (engine, gate):
        go(main())


def test_blocks_computed_with_other_weights_are_never_found() -> None:
    asked = request(prompt=random_ids(100, 4), max_tokens=4)

    async def main() -> None:
        gate.open_for_good()
        await read(engine, asked).events()
        await engine.update_weights(tensors_of("grouped_query", NEW))
        events = await read(engine, asked).events()
        assert finish_of(events).usage.cached_tokens == 0
        assert finish_of(await read(engine, asked).events()).usage.cached_tokens == 96
        load = engine.load()
        assert (load.prefix_query_tokens, load.prefix_hit_tokens) == (300, 96)

    with serving(old_model()) as (engine, gate):
        go(main())


def test_an_engine_without_a_model_says_so() -> None:
    async def main() -> None:
        engine = Engine(scripted_loop(ScriptedWorker()))
        with pytest.raises(DeepSeekError, match="no weights of its own"):
            await engine.update_weights(tensors_of("grouped_query", NEW))
        await engine.close()

    go(main())
