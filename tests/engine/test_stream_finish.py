"""What a stream tells of the end its request came to, whether or not that was read, and what Ready tells of the cache."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from engine_support import PATIENCE_S, GatedWorker, ScriptedWorker, request, scripted_loop

from deepseek.core.engine import Finish, Ready, Tokens
from deepseek.engine.engine import Engine
from deepseek.engine.fake import FakeEngine, babble
from deepseek.engine.stream import Stream

PROMPT = tuple(range(1, 60))


def test_ready_says_how_much_of_the_prompt_the_cache_had_as_finish_does() -> None:
    async def main() -> None:
        engine = Engine(scripted_loop(ScriptedWorker()))
        try:
            found = []
            for name in ("first", "second"):
                events = [event async for event in engine.generate(request(name, PROMPT, max_tokens=2))]
                ready, finish = events[0], events[-1]
                assert isinstance(ready, Ready) and isinstance(finish, Finish)
                assert ready.cached_tokens == finish.usage.cached_tokens
                found.append(ready.cached_tokens)
            assert found[0] == 0 and 0 < found[1] < len(PROMPT)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_stream_that_is_closed_knows_what_was_generated_though_nobody_read_it() -> None:
    async def main() -> None:
        worker = GatedWorker(ScriptedWorker())
        engine = Engine(scripted_loop(worker))
        try:
            stream = engine.generate(request("r", max_tokens=50))
            assert isinstance(stream, Stream)
            for _ in range(5):
                await asyncio.to_thread(worker.wait_entered)
                worker.open()
            await asyncio.to_thread(worker.wait_entered)
            assert stream.finish is None
            await stream.aclose()
            assert stream.finish is not None
            assert (stream.finish.reasons, stream.finish.usage.completion_tokens) == (("cancelled",), 5)
        finally:
            worker.open_for_good()
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_stream_whose_reader_is_cancelled_knows_it_too() -> None:
    async def main() -> None:
        worker = GatedWorker(ScriptedWorker())
        engine = Engine(scripted_loop(worker))
        try:
            stream = engine.generate(request("r", max_tokens=50))
            assert isinstance(stream, Stream)
            worker.open()

            async def read() -> None:
                async for _ in stream:
                    pass

            reading = asyncio.create_task(read())
            for _ in range(2):
                await asyncio.to_thread(worker.wait_entered)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            assert stream.finish is not None and stream.finish.usage.completion_tokens == 1
        finally:
            worker.open_for_good()
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_fake_engines_stream_counts_alike() -> None:
    async def main() -> None:
        engine = FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0, max_model_len=10**6, cached_tokens=2)
        stream = engine.generate(request("r", max_tokens=10**5))
        seen = 0
        async for event in stream:
            assert stream.finish is None  # type: ignore[attr-defined]
            if isinstance(event, Ready):
                assert event.cached_tokens == 2
            elif isinstance(event, Tokens):
                seen += len(event.token_ids)
            if seen > 10:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        finish = stream.finish  # type: ignore[attr-defined]
        assert finish.reasons == ("cancelled",) and finish.usage.cached_tokens == 2
        made = finish.usage.completion_tokens
        await engine.close()
        assert made >= seen and stream.finish.usage.completion_tokens == made  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
