"""A plugin's lane: a call ends by its time whatever it does, and what hangs takes nothing from others."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from plugin_support import run

from deepseek.plugins.lane import MAX_ABANDONED, Lane, LaneTaken, Raised

WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def ask(lane: Lane, function: Callable[[], Any], seconds: float = 5.0, is_async: bool = False) -> Any:
    return await lane.call(function, is_async=is_async, seconds=seconds)


def test_a_plain_function_runs_in_another_thread_with_the_callers_context() -> None:
    async def work() -> tuple[str, int]:
        WHO.set("acme")
        return await ask(Lane("x"), lambda: (WHO.get(), threading.get_ident()))

    who, thread = run(work())
    assert who == "acme" and thread != threading.get_ident()


def test_a_coroutine_runs_on_the_loop() -> None:
    async def who() -> int:
        return threading.get_ident()

    assert run(ask(Lane("x"), who, is_async=True)) == threading.get_ident()


def test_a_plain_function_may_give_something_to_await() -> None:
    async def answer() -> str:
        return "yes"

    assert run(ask(Lane("x"), answer)) == "yes"


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), asyncio.CancelledError(), TimeoutError(), StopIteration()]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_is_raised_comes_back_as_the_plugins(error: BaseException, is_async: bool) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    with pytest.raises(Raised) as caught:
        run(ask(Lane("x"), coroutine if is_async else plain, is_async=is_async))
    expected = RuntimeError if is_async and isinstance(error, StopIteration) else type(error)
    assert isinstance(caught.value.error, expected)


def test_a_hanging_function_is_abandoned_and_its_lane_says_so_until_it_comes_back() -> None:
    lane, release, back = Lane("x", threads=2), threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(30)
        back.set()

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await ask(lane, hang, seconds=0.01)
        assert lane.stuck == 2
        with pytest.raises(LaneTaken):
            await ask(lane, lambda: None)
        release.set()
        async with asyncio.timeout(10):
            while lane.stuck:
                await asyncio.to_thread(back.wait, 0.01)
        assert await ask(lane, lambda: "again") == "again"

    run(work())


def test_one_that_hangs_leaves_other_lanes_alone() -> None:
    release = threading.Event()

    async def work() -> list[str]:
        bad = Lane("bad")
        hanging = [asyncio.create_task(ask(bad, lambda: release.wait(30), seconds=0.05)) for _ in range(40)]
        good = await asyncio.gather(*(ask(Lane("good"), lambda: "good") for _ in range(20)))
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(error, TimeoutError | LaneTaken) for error in ended)
        release.set()
        return good

    assert run(work()) == ["good"] * 20


def test_no_more_threads_are_made_than_allowed_and_all_calls_are_answered() -> None:
    seen: set[int] = set()
    gate = threading.Barrier(3)

    def note() -> int:
        seen.add(threading.get_ident())
        gate.wait(10)
        return 1

    async def work() -> int:
        lane = Lane("x", threads=3)
        return sum(await asyncio.gather(*(ask(lane, note) for _ in range(30))))

    assert run(work()) == 30
    assert len(seen) == 3


def test_a_full_queue_refuses() -> None:
    release = threading.Event()

    async def work() -> int:
        lane = Lane("x", threads=1, waiting=4)
        tasks = [asyncio.create_task(ask(lane, lambda: release.wait(30))) for _ in range(12)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        await asyncio.gather(*waiting)
        return sum(isinstance(task.exception(), LaneTaken) for task in done)

    assert run(work()) >= 7


def test_a_call_given_up_while_it_waits_never_runs() -> None:
    release, ran = threading.Event(), threading.Event()

    async def work() -> None:
        lane = Lane("x", threads=1)
        first = asyncio.create_task(ask(lane, lambda: release.wait(30)))
        await asyncio.sleep(0)
        second = asyncio.create_task(ask(lane, ran.set))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        await first
        await ask(lane, lambda: None)

    run(work())
    assert not ran.is_set()


def test_a_coroutine_that_will_not_be_cancelled_is_left_behind_and_counted() -> None:
    async def work() -> None:
        lane, release = Lane("x"), asyncio.Event()

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        for _ in range(MAX_ABANDONED):
            with pytest.raises(TimeoutError):
                await ask(lane, stubborn, seconds=0.001, is_async=True)
        with pytest.raises(LaneTaken):
            await ask(lane, stubborn, is_async=True)
        release.set()
        async with asyncio.timeout(10):
            while lane.stuck:
                await asyncio.sleep(0)

    run(work())
