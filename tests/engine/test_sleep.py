"""Sleep and wake: memory really goes, requests wait, and answers are the same bits as without."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import KINDS, PATIENCE_S, Kind, random_ids, request
from weights_support import (
    alone,
    checkpoint,
    finish_of,
    fresh_model,
    go,
    hold_steps,
    ids_of,
    logprobs_of,
    read,
    serving,
    steps,
    tensors_of,
    versions_of,
)

from deepseek.core.errors import CheckpointError, ConfigError, EngineError
from deepseek.core.memory import return_free_memory
from deepseek.models.checkpoint import load_model


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [1, 2])
def test_requests_sleep_through_it_and_answer_the_same_bits(kind: Kind, level: int, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, kind, 1)
    asked = [
        request(f"r{i}", random_ids(6 + 9 * i, i), max_tokens=12, temperature=i, seed=i, n=1 + i, logprobs=0)
        for i in range(2)
    ]

    async def main() -> None:
        readers = [read(engine, one) for one in asked]
        await asyncio.to_thread(gate.wait_entered)
        await steps(gate, 3)
        asleep = asyncio.create_task(engine.sleep(level))
        while not engine._mail.qsize():
            await asyncio.sleep(0)
        gate.open()
        await asleep
        load = engine.load()
        assert engine.is_sleeping and load.sleeping and load.running == load.blocks_used == 0
        late = request("late", random_ids(9, 9), max_tokens=5, logprobs=0)
        readers.append(read(engine, late))
        await asyncio.sleep(0)
        assert engine.load().waiting == 4
        gate.open_for_good()
        await engine.wake()
        assert not engine.is_sleeping and not engine.load().sleeping
        model = load_model(path)
        for reader in readers:
            events, expected = await reader.events(), await alone(model, reader.asked)
            assert finish_of(events).reasons == finish_of(expected).reasons
            for choice in range(reader.asked.sampling.n):
                assert set(versions_of(events, choice)) == {0}
                assert ids_of(events, choice) == ids_of(expected, choice)
                assert logprobs_of(events, choice) == logprobs_of(expected, choice)

    with serving(load_model(path), path) as (engine, gate):
        go(main())


def test_blocks_from_before_the_sleep_are_not_found_after_it() -> None:
    asked = request(prompt=random_ids(100, 4), max_tokens=4)

    async def main() -> None:
        gate.open_for_good()
        before = await read(engine, asked).events()
        await engine.sleep()
        await engine.wake()
        after = await read(engine, asked).events()
        assert finish_of(after).usage.cached_tokens == 0 and ids_of(after) == ids_of(before)

    with serving(fresh_model("grouped_query", 1).pack()) as (engine, gate):
        go(main())


def test_asleep_a_request_can_be_aborted_and_meets_its_deadline() -> None:
    async def main() -> None:
        gate.open_for_good()
        await engine.sleep()
        clock = engine.loop._clock
        aborted = read(engine, request("aborted"))
        late = read(engine, replace(request("late"), deadline=clock() + 0.05))
        await asyncio.sleep(0)
        await engine.abort("aborted")
        assert finish_of(await aborted.events()).reasons == ("cancelled",)
        assert finish_of(await late.events()).reasons == ("deadline",)
        assert engine.is_sleeping
        await engine.wake()
        assert finish_of(await read(engine, request("after")).events()).reasons == ("length",)

    with serving(fresh_model("grouped_query", 1).pack()) as (engine, gate):
        go(main())


def test_the_memory_of_cache_and_weights_is_really_freed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "latent_experts", 1)
    model = load_model(path)
    # A cache of 128 MiB is seen in the process's memory, the small model by its finalisers.
    engine, gate, weights = hold_steps(model, path, num_blocks=2**16)
    for pool, _ in weights.worker.cache.pools:
        pool.fill_(1.0)  # pages that were never written take no memory
    del pool, _
    cache_bytes = sum(pool.nbytes for pool, _ in weights.worker.cache.pools)  # the second is a view of the first
    pools = [weakref.ref(pool) for pool, _ in weights.worker.cache.pools]
    tensors = [weakref.ref(p) for p in model.parameters()]
    tensors += [weakref.ref(m.packed.data) for m in model.modules() if hasattr(getattr(m, "packed", None), "data")]
    tensors += [weakref.ref(e) for m in model.modules() for e in getattr(m, "_adopted", {}).get("up_proj", {}).values()]
    assert len(tensors) > 20
    model_ref = weakref.ref(model)
    del model

    async def main() -> None:
        gate.open_for_good()
        await read(engine, request(max_tokens=3)).events()
        before = resident_bytes()
        await engine.sleep(1)
        assert before - resident_bytes() > 0.9 * cache_bytes
        assert not any(ref() for ref in pools) and model_ref() is not None
        await engine.sleep(2)
        gc.collect()
        assert model_ref() is None and not any(ref() is not None for ref in tensors)
        await engine.sleep(1)  # asks for less than is freed already
        await engine.wake()
        await engine.wake()
        assert finish_of(await read(engine, request("after")).events()).reasons == ("length",)
        await engine.close()

    assert cache_bytes == 2 * 2**16 * 8 * 32 * 4
    go(main())


def test_weights_that_came_from_tensors_are_not_dropped_unless_they_can_be_read_again(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "old", "grouped_query", 1)
    new = checkpoint(tmp_path / "new", "grouped_query", 2)
    asked = request(prompt=random_ids(20, 2), max_tokens=8)

    async def main() -> None:
        gate.open_for_good()
        await engine.update_weights(tensors_of("grouped_query", 2))
        with pytest.raises(ConfigError, match=r"level: the weights in use came from tensors.*weights=path"):
            await engine.sleep(2)
        assert not engine.is_sleeping
        with pytest.raises(ConfigError, match="no such model"):
            await engine.sleep(2, weights=tmp_path / "nowhere")
        await engine.sleep(2, weights=new)
        await engine.wake()
        events = await read(engine, asked).events()
        # Nobody knows that the files hold what the tensors were: another version.
        assert ids_of(events) == ids_of(await alone(load_model(new), asked)) and set(versions_of(events)) == {2}
        await engine.sleep(2)  # they came from a path now
        await engine.wake()

    with serving(load_model(path), path) as (engine, gate):
        go(main())


def test_a_wake_without_the_files_is_told_and_can_be_tried_again(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "model", "grouped_query", 1)

    async def main() -> None:
        gate.open_for_good()
        reader = read(engine, request())
        await engine.sleep(2)
        hidden = path.rename(tmp_path / "hidden")
        for _ in range(2):
            with pytest.raises((CheckpointError, ConfigError)):
                await engine.wake()
            assert engine.is_sleeping
        hidden.rename(path)
        await engine.wake()
        assert finish_of(await reader.events()).reasons == ("length",)

    with serving(load_model(path), path) as (engine, gate):
        go(main())


def test_a_wake_without_memory_for_the_cache_sleeps_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        gate.open_for_good()
        await engine.sleep()
        worker = engine._administration._weights.worker
        monkeypatch.setattr(worker, "num_blocks", 2**50)
        with pytest.raises(ConfigError, match="the key-value cache does not fit"):
            await engine.wake()
        assert engine.is_sleeping
        monkeypatch.undo()
        await engine.wake()
        assert finish_of(await read(engine, request()).events()).reasons == ("length",)

    with serving(fresh_model("grouped_query", 1).pack()) as (engine, gate):
        go(main())


@pytest.mark.parametrize("level", [1, 2])
def test_weights_can_be_changed_asleep(level: int, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "old", "grouped_query", 1)
    new: Any = checkpoint(tmp_path / "new", "grouped_query", 2)
    asked = request(prompt=random_ids(20, 2), max_tokens=8)

    async def main() -> None:
        gate.open_for_good()
        await engine.sleep(level)
        with pytest.raises(ConfigError, match="nothing drains while the engine sleeps"):
            await engine.update_weights(new, "drain")
        if level == 2:
            with pytest.raises(ConfigError, match="there are no weights to replace tensors of"):
                await engine.update_weights(tensors_of("grouped_query", 2))
        reader = read(engine, asked)
        assert await engine.update_weights(new if level == 2 else tensors_of("grouped_query", 2)) == 1
        assert engine.is_sleeping
        await engine.wake()
        events = await reader.events()
        assert ids_of(events) == ids_of(await alone(load_model(new), asked)) and set(versions_of(events)) == {1}

    with serving(load_model(path), path) as (engine, gate):
        go(main())


@pytest.mark.parametrize("how", ["another checkpoint", "other files in the same place"])
def test_waking_onto_other_weights_is_another_version(how: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "old", "grouped_query", 1)
    new = checkpoint(tmp_path / "new", "grouped_query", 2) if how == "another checkpoint" else path
    asked = request(prompt=random_ids(20, 2), max_tokens=8)

    async def main() -> None:
        gate.open_for_good()
        before = ids_of(await read(engine, asked).events())
        await engine.sleep(2, weights=new)
        if new == path:
            checkpoint(path, "grouped_query", 2)
        await engine.wake()
        events = await read(engine, asked).events()
        assert set(versions_of(events)) == {1} and ids_of(events) != before
        assert ids_of(events) == ids_of(await alone(load_model(new), asked))
        await engine.sleep(2)
        await engine.wake()
        assert engine.load().weights_version == 1  # the same again

    with serving(load_model(path), path) as (engine, gate):
        go(main())


def test_levels_there_are_not_are_refused() -> None:
    async def main() -> None:
        gate.open_for_good()
        for level in (0, 3):
            with pytest.raises(ConfigError, match=f"level: out of range; found {level}"):
                await engine.sleep(level)
        with pytest.raises(ConfigError, match="came from tensors"):
            await engine.sleep(2)  # made from a model, not from a path

    with serving(fresh_model("grouped_query", 1).pack()) as (engine, gate):
        go(main())


def test_closing_asleep_ends_what_waits() -> None:
    async def main() -> None:
        gate.open_for_good()
        await engine.sleep()
        readers = [read(engine, request(f"r{i}")) for i in range(3)]
        await asyncio.sleep(0)
        waking = asyncio.create_task(engine.wake())
        await asyncio.wait_for(engine.close(), PATIENCE_S)
        for reader in readers:
            assert finish_of(await reader.events()).reasons == ("cancelled",)
        result = (await asyncio.gather(waking, return_exceptions=True))[0]
        assert result is None or isinstance(result, EngineError)

    with serving(fresh_model("grouped_query", 1).pack()) as (engine, gate):
        go(main())


def test_returning_memory_works_everywhere() -> None:
    held = torch.ones(2**20)
    del held
    return_free_memory()
