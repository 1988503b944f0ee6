"""Leases in the engine on its thread: it sleeps while they starve, wakes when they grow, and never goes beyond them."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest
from engine_support import (
    PATIENCE_S,
    Inbox,
    Kind,
    ScriptedWorker,
    model_loop,
    random_ids,
    request,
    run,
    scheduler_config,
    scripted_loop,
    tiny_model,
)
from lease_support import Budget, GivenLease, HungryLease

from deepseek.core.engine import Event, Finish, Lease, Request, Tokens
from deepseek.core.errors import EngineError
from deepseek.engine.engine import Engine


@contextmanager
def engine_of(loop: Any) -> Iterator[Engine]:
    """Closed and checked at the end."""
    engine = Engine(loop)
    try:
        yield engine
    finally:
        asyncio.run(asyncio.wait_for(engine.close(), PATIENCE_S))
        engine.loop.scheduler.check()
        assert engine.loop.load().blocks_used == 0 and not engine.loop.has_work
        assert not engine.loop._leases


def go(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE_S))


def lent(lease: Lease, name: str = "r", **fields: Any) -> Request:
    return replace(request(name, **({"max_tokens": 40} | fields)), lease=lease)


async def collect(stream: AsyncIterator[Event]) -> Inbox:
    return Inbox([event async for event in stream])


async def read_tokens(stream: AsyncIterator[Event], count: int) -> None:
    """Until so many have come."""
    while count > 0:
        event = await anext(stream)
        assert not isinstance(event, Finish)
        count -= len(event.token_ids) if isinstance(event, Tokens) else 0


def reasons(inbox: Inbox) -> tuple[str, ...]:
    assert inbox.finish is not None
    return inbox.finish.reasons


def test_a_lease_that_grows_wakes_the_engine_which_sleeps_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look for work after the last token of each grant, then the thread blocks on its mailbox."""
    lease = GivenLease(1)

    async def main() -> None:
        stream = engine.generate(lent(lease))
        await read_tokens(stream, 1)
        for _ in range(20):
            await asyncio.to_thread(lease.give, 1)
            await read_tokens(stream, 1)
        lease.give(1, final=True)
        assert reasons(await collect(stream)) == ("budget",)

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        looks = 0
        step = engine.loop.step

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return step()

        monkeypatch.setattr(engine.loop, "step", counted)
        go(main())
        asyncio.run(engine.close())
    assert looks <= 22 * 4


def test_a_deadline_ends_a_request_that_waits_for_its_lease() -> None:
    async def main() -> None:
        asked = replace(lent(GivenLease(2)), deadline=time.monotonic() + 0.05)
        found = await collect(engine.generate(asked))
        assert reasons(found) == ("deadline",) and len(found.ids()) <= 2

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        go(main())


@pytest.mark.parametrize("how", ["abort", "close the stream", "close the engine"])
def test_whoever_waits_for_a_lease_can_be_stopped(how: str) -> None:
    async def main() -> None:
        stream = engine.generate(lent(GivenLease(2)))
        await read_tokens(stream, 2)
        if how == "abort":
            await engine.abort("r")
        elif how == "close the engine":
            await engine.close()
        else:
            await stream.aclose()  # type: ignore[attr-defined]
            assert not engine.loop.has_work
            return
        assert reasons(await collect(stream)) == ("cancelled",)

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        go(main())


def test_a_drain_waits_for_a_lease_without_spinning_and_ends_with_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stream = engine.generate(lent(GivenLease(2)))
        await read_tokens(stream, 2)
        engine.loop.drain(True)
        drained = asyncio.get_running_loop().run_in_executor(
            None, lambda: engine._between_steps(looks.clear, when=lambda: engine.loop.drained)
        )
        other = collect(engine.generate(request("other", max_tokens=1)))
        waiting = asyncio.ensure_future(other)
        for _ in range(20):  # the thread looks once for each message, and no more
            await engine.abort("nobody")
            await asyncio.to_thread(engine.load)
        assert not drained.done()
        before = len(looks)
        await engine.abort("r")
        await drained
        assert before <= 20 * 2 + 12
        engine.loop.drain(False)
        engine._later(lambda: None)
        assert reasons(await waiting) == ("length",)

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        looks: list[None] = []
        step = engine.loop.step

        def counted() -> bool:
            looks.append(None)
            return step()

        monkeypatch.setattr(engine.loop, "step", counted)
        go(main())


def test_a_lease_that_cannot_be_watched_is_told_to_the_caller_alone() -> None:
    class Deaf(GivenLease):
        def watch(self, changed: Callable[[], None]) -> None:
            raise RuntimeError("no")

    async def main() -> None:
        other = engine.generate(request("other"))
        with pytest.raises(EngineError, match=r"lease failed.*RuntimeError"):
            engine.generate(lent(Deaf(9)))
        assert reasons(await collect(other)) == ("length",)
        assert reasons(await collect(engine.generate(request("r")))) == ("length",)

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        go(main())


def test_a_lease_does_not_keep_an_engine_alive() -> None:
    lease = GivenLease(3, True)

    async def main() -> None:
        assert reasons(await collect(engine.generate(lent(lease)))) == ("budget",)

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        go(main())
    (changed,) = lease.watchers
    assert engine not in getattr(changed, "args", ()) and getattr(changed.func, "__self__", None) is engine._mail  # type: ignore[attr-defined]
    lease.give(1)


@pytest.mark.parametrize("kind", ["grouped_query", "latent_experts"])
@pytest.mark.parametrize("speculation", ["off", "ngram", "mtp"])
def test_grants_of_any_size_at_any_time_change_no_token(kind: Kind, speculation: str) -> None:
    """Small pools, several choices, repeating texts: each request says a beginning of what it says without a lease."""
    drawn = random.Random(5)
    model = tiny_model(kind, draft_layers=1)
    asked = []
    for index in range(24):
        bias = {65: 9.0, 66: 9.0} if index % 2 else {}
        fields = {"max_tokens": 6 + index, "n": 1 + index % 3, "seed": index, "temperature": 0.8, "logprobs": 1}
        asked.append(request(f"r{index}", random_ids(5 + index * 3, index), logit_bias=bias, **fields))
    expected = {one.id: run(model_loop(model, scheduler_config()), [one])[one.id] for one in asked}
    hungry: SimpleQueue[HungryLease | None] = SimpleQueue()
    leases = {one.id: HungryLease(drawn.randrange(4), hungry) for one in asked if int(one.id[1:]) % 4}
    fed = 0
    config = scheduler_config(num_blocks=40, max_sequences=9, max_tokens_per_step=40, speculation=speculation)

    def feed() -> None:
        """On a thread of its own."""
        nonlocal fed
        while (lease := hungry.get(timeout=PATIENCE_S)) is not None:
            lease.give(1 + drawn.randrange(6), final=drawn.random() < 0.1)
            fed += 1

    async def main() -> None:
        streams = [collect(engine.generate(replace(one, lease=leases.get(one.id)))) for one in asked]
        feeder = threading.Thread(target=feed)
        feeder.start()
        for one, found in zip(asked, await asyncio.gather(*streams), strict=True):
            alone, lease = expected[one.id], leases.get(one.id)
            assert found.finish is not None
            total = 0
            for choice, reason in enumerate(found.finish.reasons):
                ids = found.ids(choice)
                total += len(ids)
                assert ids == alone.ids(choice)[: len(ids)]
                assert repr(found.logprobs(choice)) == repr(alone.logprobs(choice)[: len(ids)])
                assert reason == "budget" or (ids, reason) == (alone.ids(choice), reasons(alone)[choice])
            assert found.finish.usage.completion_tokens == total
            if lease is None:
                assert "budget" not in found.finish.reasons
            else:
                assert total <= lease.granted and lease.used[-1:] == [total][: bool(total)]
                assert "budget" not in found.finish.reasons or total == lease.granted
        hungry.put(None)
        await asyncio.to_thread(feeder.join)
        assert fed > 60

    with engine_of(model_loop(model, config)) as engine:
        go(main())


@pytest.mark.parametrize("size", [1, 7, 64])
def test_64_streams_on_one_budget_use_it_up_and_not_a_token_more(size: int) -> None:
    budget = Budget(1500, size)
    model = tiny_model("grouped_query")

    async def one(index: int) -> tuple[int, tuple[str, ...]]:
        lease = budget.lease()
        asked = request(f"r{index}", random_ids(4 + index % 9, index), max_tokens=200, n=1 + index % 3)
        found = await collect(engine.generate(replace(asked, lease=lease)))
        assert found.finish is not None
        told = sum(len(found.ids(choice)) for choice in range(asked.sampling.n))
        assert told == found.finish.usage.completion_tokens == lease.used
        return told, reasons(found)

    async def main() -> None:
        ends = await asyncio.gather(*(one(index) for index in range(64)))
        assert sum(told for told, _ in ends) == 1500 and budget.left == 0
        assert all(set(found) == {"budget"} for _, found in ends)

    with engine_of(model_loop(model, scheduler_config(num_blocks=600, max_sequences=32))) as engine:
        go(main())


def test_64_streams_that_end_when_they_like_stay_within_their_budget_and_give_back_the_rest() -> None:
    budget = Budget(1000, 16)

    async def one(index: int) -> int:
        lease = budget.lease()
        found = await collect(engine.generate(replace(request(f"r{index}", max_tokens=3 + index), lease=lease)))
        assert found.finish is not None and found.finish.usage.completion_tokens == len(found.ids()) == lease.used
        assert reasons(found) == (("length",) if len(found.ids()) == 3 + index else ("budget",))
        lease.settle()
        return len(found.ids())

    async def main() -> None:
        used = sum(await asyncio.gather(*(one(index) for index in range(64))))
        assert used <= 1000 and used + budget.left == 1000

    with engine_of(scripted_loop(ScriptedWorker())) as engine:
        go(main())
