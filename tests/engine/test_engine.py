"""The engine on its thread: streams, aborts and ends, seen from an event loop. Gates instead of sleeps."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from engine_support import PATIENCE_S, ByteTable, GatedWorker, ScriptedWorker, request, scripted_loop

from deepseek.core.engine import Event, Finish, Ready, Tokens
from deepseek.core.errors import AdmissionError, EngineError
from deepseek.engine.engine import Engine
from deepseek.engine.stream import joined


def go(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE_S))


@contextmanager
def gated(table: ByteTable | None = None, **changes: int) -> Iterator[tuple[Engine, GatedWorker]]:
    """An engine whose steps go one by one; closed and checked at the end."""
    worker = GatedWorker(ScriptedWorker())
    engine = Engine(scripted_loop(worker, table, **changes))
    try:
        yield engine, worker
    finally:
        worker.open_for_good()
        asyncio.run(asyncio.wait_for(engine.close(), PATIENCE_S))
        engine.loop.scheduler.check()
        assert engine.loop.load().blocks_used == 0 and not engine.loop.has_work


async def entered(worker: GatedWorker) -> None:
    await asyncio.to_thread(worker.wait_entered)


async def collect(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


def finish(events: list[Event]) -> Finish:
    assert [type(event) for event in events].count(Finish) == 1
    last = events[-1]
    assert isinstance(last, Finish)
    return last


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Tokens))


def test_many_streams_are_served_together() -> None:
    async def main() -> None:
        found = await asyncio.gather(*(collect(engine.generate(request(f"r{i}", max_tokens=5 + i))) for i in range(20)))
        for index, events in enumerate(found):
            assert isinstance(events[0], Ready)
            assert finish(events).reasons == ("length",)
            assert text(events) == "".join(chr(0x61 + (3 + at) % 10) for at in range(5 + index))

    with gated() as (engine, worker):
        worker.open_for_good()
        go(main())


def test_a_token_arrives_as_soon_as_its_step_is_done() -> None:
    async def main() -> None:
        stream = engine.generate(request())
        worker.open()
        assert isinstance(await anext(stream), Ready)
        assert text([await anext(stream)]) == "d"
        await entered(worker)  # the first step
        await entered(worker)  # the second waits at the gate, and the first token is here

    with gated() as (engine, worker):
        go(main())


@pytest.mark.parametrize("tokens", [0, 2])
def test_leaving_the_loop_early_aborts_within_a_step(tokens: int) -> None:
    async def main() -> None:
        for _ in range(tokens):
            worker.open()
        stream = engine.generate(request(max_tokens=200))
        seen = 0
        if tokens:
            async for event in stream:
                seen += len(event.token_ids) if isinstance(event, Tokens) else 0
                if seen == tokens:
                    break
        for _ in range(tokens + 1):
            await entered(worker)
        del stream  # with no token asked for, it was never read
        gc.collect()
        worker.open_for_good()
        for probe in ("first", "second"):  # the first may share the step that was under way
            assert finish(await collect(engine.generate(request(probe, max_tokens=1)))).reasons == ("length",)
        assert not engine.loop.has_work
        assert len(worker.inner.plans) <= tokens + 4  # type: ignore[attr-defined]

    with gated() as (engine, worker):
        go(main())


def test_a_cancelled_reader_aborts_its_request() -> None:
    async def main() -> None:
        task = asyncio.create_task(collect(engine.generate(request())))
        await entered(worker)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not engine.loop.has_work

    with gated() as (engine, worker):
        go(main())


def test_a_closed_stream_gives_nothing_more() -> None:
    async def main() -> None:
        stream = engine.generate(request())
        worker.open()
        assert isinstance(await anext(stream), Ready)
        await stream.aclose()  # type: ignore[attr-defined]
        await stream.aclose()  # type: ignore[attr-defined]
        assert await collect(stream) == []
        assert not engine.loop.has_work

    with gated() as (engine, worker):
        go(main())


def test_an_abort_before_the_first_token_finishes_the_stream_while_the_step_still_runs() -> None:
    async def main() -> None:
        stream = engine.generate(request())
        await entered(worker)
        await engine.abort("r")
        await engine.abort("r")
        await engine.abort("nobody")
        events = await collect(stream)
        assert finish(events).reasons == ("cancelled",) and len(events) == 1

    with gated() as (engine, worker):
        go(main())


def test_an_abort_from_another_thread_finishes_the_stream() -> None:
    async def main() -> None:
        stream = engine.generate(request(n=2))
        worker.open()
        await entered(worker)
        await entered(worker)
        thread = threading.Thread(target=lambda: asyncio.run(engine.abort("r")))
        thread.start()
        assert finish(await collect(stream)).reasons == ("cancelled", "cancelled")
        thread.join()

    with gated() as (engine, worker):
        go(main())


def test_a_duplicate_is_refused_and_the_first_goes_on() -> None:
    async def main() -> None:
        stream = engine.generate(request())
        with pytest.raises(AdmissionError, match="a live request has this id"):
            engine.generate(request())
        gc.collect()
        worker.open_for_good()
        assert finish(await collect(stream)).reasons == ("length",)

    with gated() as (engine, worker):
        go(main())


def test_a_stream_dropped_after_its_end_does_not_abort_a_younger_request_of_the_same_name() -> None:
    async def main() -> None:
        old = engine.generate(request())
        await engine.abort("r")
        young = engine.generate(request())
        del old
        gc.collect()
        worker.open_for_good()
        assert finish(await collect(young)).reasons == ("length",)

    with gated() as (engine, worker):
        go(main())


def test_a_reader_whose_event_loop_is_gone_is_aborted_and_the_others_go_on() -> None:
    kept: list[AsyncIterator[Event]] = []

    async def leave() -> None:
        kept.append(engine.generate(request("gone", max_tokens=100)))

    async def main() -> None:
        stream = engine.generate(request("here", max_tokens=4))
        worker.open_for_good()
        assert finish(await collect(stream)).reasons == ("length",)
        assert "gone" not in engine.loop.scheduler._requests

    with gated() as (engine, worker):
        go(leave())
        go(main())


def test_a_slow_reader_gets_all_text_in_few_events() -> None:
    async def main() -> None:
        slow = engine.generate(request(max_tokens=50, logprobs=0))
        quick = engine.generate(request("quick", max_tokens=60))
        worker.open_for_good()
        assert finish(await collect(quick)).reasons == ("length",)
        events = await collect(slow)
        assert len(events) == 3
        tokens = events[1]
        assert isinstance(tokens, Tokens) and tokens.logprobs is not None
        assert len(tokens.text) == len(tokens.token_ids) == len(tokens.logprobs) == 50

    with gated() as (engine, worker):
        go(main())


def test_text_without_tokens_joins_without_losing_logprobs() -> None:
    from deepseek.core.engine import TokenLogprob

    first = Tokens("r", 0, "a", (1,), (TokenLogprob(1, -1.0),))
    assert joined(first, Tokens("r", 0, "b", ())) == Tokens("r", 0, "ab", (1,), first.logprobs)
    assert joined(Tokens("r", 0, "a", (1,)), Tokens("r", 0, "b", (2,))) == Tokens("r", 0, "ab", (1, 2))


def test_closing_ends_every_live_request_once_and_refuses_more() -> None:
    async def main() -> None:
        streams = [engine.generate(request(f"r{i}")) for i in range(5)]
        await entered(worker)
        closing = asyncio.gather(engine.close(), engine.close())
        await asyncio.sleep(0)  # both have begun
        worker.open_for_good()
        for stream in streams:
            assert finish(await collect(stream)).reasons == ("cancelled",)
        await closing
        assert not engine._thread.is_alive()
        with pytest.raises(EngineError, match="closed"):
            engine.generate(request())
        await engine.abort("r0")
        assert engine.load().running == 0

    with gated(max_sequences=2) as (engine, worker):
        go(main())


def test_a_worker_that_fails_finishes_the_stream_and_the_engine_serves_on() -> None:
    async def main() -> None:
        worker.inner.fail_with = ValueError("bad step")  # type: ignore[attr-defined]
        worker.open_for_good()
        assert finish(await collect(engine.generate(request()))).reasons == ("error",)
        assert finish(await collect(engine.generate(request()))).reasons == ("length",)

    with gated() as (engine, worker):
        go(main())


def test_an_idle_engine_sleeps_until_it_gets_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look for work after the last step, then the thread blocks on its mailbox."""

    async def main() -> None:
        for index in range(20):  # wake-ups at every moment of falling asleep
            assert finish(await collect(engine.generate(request(f"r{index}", max_tokens=1)))).reasons == ("length",)

    with gated() as (engine, worker):
        looks = 0
        step = engine.loop.step

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return step()

        monkeypatch.setattr(engine.loop, "step", counted)
        worker.open_for_good()
        go(main())
        asyncio.run(engine.close())
    assert looks <= 20 * 3 + 2
