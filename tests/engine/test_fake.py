"""The fake engine keeps the engine's contract: its pace, its ends, and exactly one Finish whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.engine import Embedding, Engine, Event, Finish, PromptScores, Ready, Request, Tokens, Usage
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.fake import FakeEngine, VirtualTime, say

T = TypeVar("T")


def request(name: str = "r", prompt: Iterable[int] = (1, 2, 3), **rest: Any) -> Request:
    at_top = {key: rest.pop(key) for key in ("priority", "deadline") if key in rest}
    return Request(name, tuple(prompt), SamplingParams(**({"max_tokens": 8, "seed": 1} | rest)), **at_top)


def with_engine(body: Callable[[FakeEngine, VirtualTime], Awaitable[T]], **settings: Any) -> T:
    """Run `body` with a fake engine on virtual time; nothing may be left over in the engine afterwards."""

    async def run() -> T:
        time = VirtualTime()
        engine = FakeEngine(**({"ttft_s": 5.0, "inter_token_s": 1.0} | settings), clock=time.now, sleep=time.sleep)
        result = await body(engine, time)
        await engine.close()
        load = engine.load()
        assert (load.waiting, load.running, load.blocks_used) == (0, 0, 0)
        return result

    return asyncio.run(run())


def events_of(wanted: Request, **settings: Any) -> list[Event]:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[Event]:
        return [event async for event in engine.generate(wanted)]

    return with_engine(body, **settings)


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Tokens) and event.choice == choice)


def finish_of(events: list[Event]) -> Finish:
    (finish,) = [event for event in events if isinstance(event, Finish)]
    assert events[-1] is finish
    return finish


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.load().running == 0


def test_a_request_is_ready_then_speaks_then_finishes() -> None:
    events = events_of(request(max_tokens=100), reply=say("Hello!"))
    assert isinstance(events[0], Ready)
    assert [type(event) for event in events[1:-1]] == [Tokens] * 6
    assert text_of(events) == "Hello!"
    assert finish_of(events) == Finish("r", ("stop",), Usage(3, 6))


def test_tokens_come_at_the_set_pace() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[float]:
        return [time.now() async for event in engine.generate(request(max_tokens=4)) if isinstance(event, Tokens)]

    assert with_engine(body) == [5.0, 6.0, 7.0, 8.0]


def test_max_tokens_and_the_models_length_end_with_length() -> None:
    assert finish_of(events_of(request(max_tokens=5))).usage.completion_tokens == 5
    finish = finish_of(events_of(request(max_tokens=50), max_model_len=10))
    assert (finish.reasons, finish.usage.total_tokens) == (("length",), 10)


def test_a_seed_repeats_an_answer_and_another_changes_it() -> None:
    texts = [text_of(events_of(request(seed=seed, max_tokens=30))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_ignores_the_seed() -> None:
    texts = [text_of(events_of(request(seed=seed, temperature=0.0, max_tokens=30))) for seed in (1, 2)]
    assert texts[0] == texts[1]


def test_a_drawn_seed_is_reported() -> None:
    ready = events_of(request(seed=None))[0]
    assert isinstance(ready, Ready)
    assert text_of(events_of(request(seed=ready.seed))) == text_of(events_of(request(seed=ready.seed)))


def test_characters_are_never_cut() -> None:
    events = events_of(request(max_tokens=100), reply=say("héllo 你好"))
    pieces = [event.text for event in events if isinstance(event, Tokens)]
    assert "".join(pieces) == "héllo 你好"
    assert "\ufffd" not in "".join(pieces)
    assert finish_of(events).usage.completion_tokens == len("héllo 你好".encode())


@given(
    st.text(st.sampled_from("ab你"), max_size=12), st.lists(st.text(st.sampled_from("ab你"), min_size=1, max_size=4))
)
def test_text_ends_before_the_first_stop_string_to_complete(text: str, stops: list[str]) -> None:
    events = events_of(request(max_tokens=100, stop=tuple(stops[:16])), reply=say(text))
    ends = [at for at in range(len(text) + 1) if any(text[:at].endswith(stop) for stop in stops[:16])]
    if ends:
        first = min(text[: ends[0]].find(stop) for stop in stops[:16] if stop in text[: ends[0]])
        assert text_of(events) == text[:first]
        assert finish_of(events).usage.completion_tokens == len(text[: ends[0]].encode())
    else:
        assert text_of(events) == text
    assert finish_of(events).reasons == ("stop",)


def test_a_stop_id_is_counted_and_not_spoken() -> None:
    events = events_of(request(max_tokens=100, stop_token_ids=(ord("l"),)), reply=say("hello"))
    assert text_of(events) == "he"
    assert finish_of(events) == Finish("r", ("stop",), Usage(3, 3))


def test_choices_differ_and_end_each_for_its_own_reason() -> None:
    def reply(wanted: Request, choice: int, seed: int) -> bytes:
        return b"abcdef"[: 2 + 4 * choice]

    events = events_of(request(n=2, max_tokens=4), reply=reply)
    assert [text_of(events, choice) for choice in range(2)] == ["ab", "abcd"]
    assert finish_of(events) == Finish("r", ("stop", "length"), Usage(3, 6))


@pytest.mark.parametrize("alternatives", [None, 0, 2])
def test_logprobs_come_as_asked(alternatives: int | None) -> None:
    events = events_of(request(logprobs=alternatives))
    for event in events:
        if isinstance(event, Tokens):
            found = None if event.logprobs is None else [len(logprob.top) for logprob in event.logprobs]
            assert found == (None if alternatives is None else [alternatives])


@pytest.mark.parametrize("fail_at", [0, 3])
def test_an_injected_failure_ends_with_error_after_that_many_tokens(fail_at: int) -> None:
    events = events_of(request(max_tokens=9), fail_at=fail_at)
    assert isinstance(events[0], Ready)
    finish = finish_of(events)
    assert (finish.reasons, finish.usage.completion_tokens) == (("error",), fail_at)
    assert finish.error == f"injected failure after {fail_at} tokens"


def test_failures_can_be_chosen_by_request() -> None:
    def fail_at(wanted: Request) -> int | None:
        return 1 if wanted.id == "bad" else None

    assert finish_of(events_of(request("bad"), fail_at=fail_at)).reasons == ("error",)
    assert finish_of(events_of(request("good"), fail_at=fail_at)).reasons == ("length",)


def test_a_reply_that_raises_ends_its_request_with_error() -> None:
    def reply(wanted: Request, choice: int, seed: int) -> Iterator[int]:
        yield 65
        raise ValueError("no more")

    finish = finish_of(events_of(request(), reply=reply))
    assert (finish.reasons, finish.usage.completion_tokens) == (("error",), 1)
    assert finish.error == "ValueError: no more"


def test_a_sleep_that_raises_ends_its_request_with_error() -> None:
    async def run() -> list[Event]:
        async def sleep(seconds: float) -> None:
            raise OSError("no clock")

        return [event async for event in FakeEngine(sleep=sleep).generate(request())]

    assert finish_of(asyncio.run(run())).error == "OSError: no clock"


@pytest.mark.parametrize(("deadline", "tokens"), [(3.0, 0), (6.5, 2)])
def test_a_deadline_ends_a_request_on_time(deadline: float, tokens: int) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> tuple[list[Event], float]:
        return [event async for event in engine.generate(request(deadline=deadline))], time.now()

    events, ended = with_engine(body)
    assert (finish_of(events).reasons, finish_of(events).usage.completion_tokens) == (("deadline",), tokens)
    assert ended == deadline


@pytest.mark.parametrize(("at", "tokens"), [(2.0, 0), (6.5, 2)])
def test_an_abort_takes_effect_at_once_before_the_first_token_too(at: float, tokens: int) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> tuple[list[Event], float]:
        stream = engine.generate(request())
        await time.sleep(at)
        await engine.abort("r")
        events = [event async for event in stream]
        return events, time.now()

    events, ended = with_engine(body)
    assert (finish_of(events).reasons, finish_of(events).usage.completion_tokens) == (("cancelled",), tokens)
    assert ended == at


def test_aborting_an_unknown_request_is_ignored() -> None:
    with_engine(lambda engine, time: engine.abort("nobody"))


@pytest.mark.parametrize("how", ["close", "drop", "cancel", "never read"])
def test_leaving_the_stream_aborts_the_request(how: str) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> int:
        stream = engine.generate(request(max_tokens=1000))
        if how == "close":
            async with aclosing(stream) as events:  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Tokens):
                        break
        elif how == "cancel":
            reader = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        elif how == "drop":
            await anext(stream)
        del stream
        await time.sleep(0.0)
        return engine.load().running

    assert with_engine(body) == 0


def test_requests_wait_for_a_place_by_priority_then_arrival() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[str]:
        order: list[str] = []

        async def read(name: str, priority: int) -> None:
            async for event in engine.generate(request(name, priority=priority, max_tokens=1)):
                if isinstance(event, Ready):
                    order.append(event.request_id)

        await asyncio.gather(read("a", 0), read("b", 1), read("c", 0), read("d", -1))
        return order

    assert with_engine(body, max_running=1) == ["a", "d", "c", "b"]


def test_load_tells_what_waits_what_runs_and_for_how_long() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> tuple[int, int, int, float]:
        streams = [engine.generate(request(name, range(20))) for name in "ab"]
        await time.sleep(2.0)
        load = engine.load()
        assert len(streams) == 2
        return load.waiting, load.running, load.blocks_used, load.oldest_wait_s

    assert with_engine(body, max_running=1, block_size=16) == (1, 1, 2, 2.0)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (request("new", ()), "invalid"),
        (request("new", range(16)), "too_long"),
        (request("running"), "duplicate"),
        (request("new"), "queue_full"),
    ],
)
def test_what_the_real_engine_refuses_it_refuses_at_once(wanted: Request, reason: str) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> str:
        streams = [engine.generate(request(name)) for name in ("running", "waiting")]
        with pytest.raises(AdmissionError) as refusal:
            engine.generate(wanted)
        assert len(streams) == 2
        return refusal.value.reason

    assert with_engine(body, max_model_len=16, max_running=1, max_waiting=1) == reason


def test_close_ends_everything_once_and_refuses_what_comes_later() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[list[Event]]:
        streams = [engine.generate(request(name)) for name in "abc"]
        await time.sleep(6.0)
        await engine.close()
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.generate(request("late"))
        return [[event async for event in stream] for stream in streams]

    for events in with_engine(body, max_running=2):
        assert finish_of(events).reasons == ("cancelled",)


@given(st.lists(st.tuples(st.floats(0, 12), st.sampled_from(["read", "abort", "leave"])), min_size=1, max_size=8))
def test_every_request_gets_exactly_one_finish(plan: list[tuple[float, str]]) -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> list[list[Event]]:
        async def one(number: int, at: float, what: str) -> list[Event]:
            stream = engine.generate(request(f"r{number}", deadline=11.0 if number % 3 else None))
            if what == "leave":
                await anext(stream)
                return []
            if what == "abort":
                await time.sleep(at)
                await engine.abort(f"r{number}")
            return [event async for event in stream]

        return await asyncio.gather(*(one(number, at, what) for number, (at, what) in enumerate(plan)))

    for events in with_engine(body, max_running=2):
        if events:
            assert len(finish_of(events).reasons) == 1


def test_an_impossible_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="max_running"):
        FakeEngine(max_running=0)


def test_virtual_time_wakes_sleepers_in_order() -> None:
    async def run() -> list[tuple[float, float]]:
        time = VirtualTime()
        woken: list[tuple[float, float]] = []

        async def sleeper(seconds: float) -> None:
            await time.sleep(seconds)
            woken.append((seconds, time.now()))

        await asyncio.gather(*(sleeper(seconds) for seconds in (3.0, 1.0, 2.0, 1.0)))
        return woken

    assert asyncio.run(run()) == [(1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def versions_of(events: list[Event]) -> list[int]:
    return [event.weights_version for event in events if isinstance(event, Tokens)]


async def read(engine: FakeEngine, wanted: Request) -> list[Event]:
    return [event async for event in engine.generate(wanted)]


def test_recompute_changes_the_version_of_the_tokens_to_come() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        reading = asyncio.create_task(read(engine, request(max_tokens=6)))
        await time.sleep(7.5)
        assert await engine.update_weights("anything") == 1
        assert versions_of(await reading) == [0, 0, 0, 1, 1, 1]
        assert engine.load().weights_version == 1

    with_engine(body)


def test_drain_waits_for_what_was_started_and_holds_back_the_rest() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        first = asyncio.create_task(read(engine, request("first", max_tokens=6)))
        await time.sleep(7.5)
        swap = asyncio.create_task(engine.update_weights({"name": object()}, "drain"))
        await time.sleep(0.1)
        second = asyncio.create_task(read(engine, request("second", max_tokens=2)))
        await time.sleep(0.1)
        assert engine.load().waiting == 1 and not swap.done()
        assert versions_of(await first) == [0] * 6
        assert await swap == 1 and versions_of(await second) == [1] * 2

    with_engine(body)


def test_asleep_nothing_comes_and_nothing_is_lost() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        reading = asyncio.create_task(read(engine, request(max_tokens=4)))
        late = asyncio.create_task(read(engine, request("late", max_tokens=4, deadline=20.0)))
        await time.sleep(6.5)
        await engine.sleep(2)
        assert engine.is_sleeping and engine.load().sleeping and engine.load().running == 0
        with pytest.raises(ConfigError, match="nothing drains while the engine sleeps"):
            await engine.update_weights("x", "drain")
        assert finish_of(await late).reasons == ("deadline",)
        assert not reading.done()
        await engine.wake()
        events = await reading
        assert finish_of(events) == Finish("r", ("length",), Usage(3, 4)) and not engine.is_sleeping

    with_engine(body)


def test_scores_and_embeddings_come_in_the_real_ones_form() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        scores = await engine.score(request(prompt=(1, 2, 3), prompt_logprobs=2))
        assert isinstance(scores, PromptScores) and scores.logprobs[0] is None
        assert [entry.token_id for entry in scores.logprobs[1:] if entry is not None] == [2, 3]
        embedding = await engine.encode(request())
        assert isinstance(embedding, Embedding) and embedding.values.dtype.name == "float32"
        again = await engine.encode(request())
        assert (again.values == embedding.values).all()

    with_engine(body)


def test_adapters_are_known_by_name_until_they_are_unloaded() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        styled = replace(request(), adapter="style")
        with pytest.raises(AdmissionError, match="no adapter of this name"):
            engine.generate(styled)
        assert [await engine.load_adapter("style", "a"), await engine.load_adapter("style", "b")] == [1, 2]
        reading = asyncio.create_task(read(engine, styled))
        await time.sleep(1)
        unloading = asyncio.create_task(engine.unload_adapter("style"))
        await time.sleep(1)
        with pytest.raises(AdmissionError, match="no adapter of this name"):
            engine.generate(replace(request("other"), adapter="style"))
        assert not unloading.done()
        assert finish_of(await reading).reasons == ("length",)
        await unloading

    with_engine(body)


def test_closing_ends_a_drain_and_an_unload_with_an_error() -> None:
    async def body(engine: FakeEngine, time: VirtualTime) -> None:
        await engine.load_adapter("style", "a")
        reading = asyncio.create_task(read(engine, replace(request(max_tokens=100), adapter="style")))
        await time.sleep(6)
        waits = [
            asyncio.create_task(engine.update_weights("x", "drain")),
            asyncio.create_task(engine.unload_adapter("style")),
        ]
        await time.sleep(1)
        await engine.close()
        assert finish_of(await reading).reasons == ("cancelled",)
        for wait in waits:
            with pytest.raises(EngineError, match="closed"):
                await wait
        for call in (engine.update_weights("x"), engine.sleep(), engine.wake(), engine.unload_adapter("style")):
            with pytest.raises(EngineError, match="closed"):
                await call

    with_engine(body)
