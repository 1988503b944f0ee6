"""Tools that do not come back: the call ends, and what cannot be stopped is counted and bounded."""

import asyncio
import threading
import time
from typing import Any

import pytest
from execution_support import Run, bounded, call, registry_of

from deepseek.agent import Executor, ToolContext
from deepseek.agent.execution.errors import ToolBusy, ToolTimeout
from deepseek.agent.execution.executor import ExecutorLimits
from deepseek.agent.execution.threads import Threads

SHORT_S = 0.05


def test_an_asynchronous_tool_is_cancelled_and_may_clean_up() -> None:
    cleaned: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    run = Run(registry_of(hang, timeout_s=SHORT_S))
    (result,) = run(call("hang"))
    assert (result.kind, result.retryable, result.text) == ("timeout", True, "the tool took longer than 0.05 s")
    assert cleaned == ["up"] and run.executor.stuck == 0


def test_one_that_swallows_its_cancellation_is_given_up_and_counted_until_it_ends() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    run = Run(registry_of(stubborn, timeout_s=SHORT_S), limits=ExecutorLimits(grace_s=SHORT_S, stuck=2))

    async def scenario() -> None:
        first, second = await run.executor.run([call("stubborn", "1"), call("stubborn", "2")])
        assert first.kind == second.kind == "timeout" and "did not stop when it was told to" in first.text
        assert run.executor.stuck == 2
        assert run.kinds("1") == ["tool_started", "tool_given_up", "tool_finished"]
        (third,) = await run.executor.run([call("stubborn", "3")])  # there are as many as may be
        assert third.kind == "busy" and third.attempts == 0
        release.set()
        while run.executor.stuck:
            await asyncio.sleep(0)
        (fourth,) = await run.executor.run([call("stubborn", "4")])
        assert fourth.status == "ok"

    bounded(scenario())


def test_its_slot_is_free_again_when_it_is_given_up() -> None:
    release = asyncio.Event()

    async def stubborn(times: int) -> str:
        while times and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "ok"

    run = Run(registry_of(stubborn, timeout_s=SHORT_S, concurrency=1), limits=ExecutorLimits(grace_s=SHORT_S))

    async def scenario() -> None:
        (first,) = await run.executor.run([call("stubborn", times=1)])
        (second,) = await run.executor.run([call("stubborn", times=0)])
        assert first.kind == "timeout" and second.text == "ok"
        release.set()

    bounded(scenario())


def test_a_thread_that_hangs_is_given_up_its_slot_goes_to_another() -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(30)

    def quick() -> str:
        return "ok"

    registry = registry_of(hang, timeout_s=SHORT_S)
    registry.register("quick", quick)
    run = Run(registry, limits=ExecutorLimits(threads=1, stuck=2))
    hung, after = run(call("hang"), call("quick"))
    assert hung.kind == "timeout" and "its thread cannot be stopped and was given up" in hung.text
    assert after.text == "ok" and run.executor.stuck == 1
    assert run(call("hang"))[0].kind == "timeout"
    refused = run(call("quick"))[0]
    assert refused.kind == "busy" and "too many tools hang in threads" in refused.text
    release.set()
    until = time.monotonic() + 10
    while run.executor.stuck and time.monotonic() < until:
        threading.Event().wait(0.005)
    assert run(call("quick"))[0].text == "ok"


def test_a_call_that_no_thread_took_in_time_says_busy_and_never_runs() -> None:
    release, ran = threading.Event(), []

    def hold() -> None:
        release.wait(30)

    def quick() -> None:
        ran.append(1)

    registry = registry_of(hold, timeout_s=20)
    registry.register("quick", quick, timeout_s=SHORT_S)
    run = Run(registry, limits=ExecutorLimits(threads=1))

    async def scenario() -> Any:
        holding = asyncio.ensure_future(run.executor.run([call("hold")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (late,) = await run.executor.run([call("quick")])
        release.set()
        await holding
        return late

    late = bounded(scenario())
    assert late.kind == "busy" and "no thread was free in time" in late.text and ran == []


def test_the_runs_deadline_ends_a_call_before_its_own_time() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    begun = time.monotonic()
    (result,) = Run(registry_of(hang, timeout_s=60))(call("hang"), context=ToolContext(deadline=begun + SHORT_S))
    assert result.kind == "deadline" and time.monotonic() - begun < 10


def test_a_plain_function_that_returns_a_coroutine_is_awaited_within_its_time() -> None:
    async def inner(seconds: float) -> str:
        if seconds:
            await asyncio.Event().wait()
        return "ok"

    registry = registry_of(lambda_like(inner), timeout_s=SHORT_S)
    quick, hung = Run(registry)(call("work", "1", seconds=0), call("work", "2", seconds=1))
    assert quick.text == "ok" and hung.kind == "timeout"


def lambda_like(inner: Any) -> Any:
    def work(seconds: float) -> Any:
        return inner(seconds)

    return work


def test_a_cancelled_step_leaves_no_more_than_the_hanging_thread() -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(30)

    async def scenario() -> None:
        executor = Executor(registry_of(hang))
        step = asyncio.ensure_future(executor.run([call("hang")]))
        for _ in range(3):
            await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert executor.stuck == 1
        release.set()
        while executor.stuck:
            await asyncio.sleep(0)

    bounded(scenario())


def test_cancelling_once_more_while_a_tool_swallows_it_is_not_lost() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def scenario() -> None:
        executor = Executor(registry_of(stubborn, timeout_s=SHORT_S), limits=ExecutorLimits(grace_s=60))
        step = asyncio.ensure_future(executor.run([call("stubborn")]))
        await asyncio.wait((step,), timeout=4 * SHORT_S)  # its time is over, its grace is not
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert executor.stuck == 1
        release.set()

    bounded(scenario())


def test_execute_comes_back_from_a_tool_that_never_does() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(ToolTimeout) as caught:
        registry_of(stubborn, timeout_s=SHORT_S).execute("stubborn")
    assert not caught.value.stopped


def test_threads_are_used_again_and_never_more_than_their_number() -> None:
    threads, seen, together = Threads(most=3), set(), threading.Barrier(3)
    done = threading.Semaphore(0)

    def work() -> None:
        together.wait(10)  # passes only with exactly three at a time
        seen.add(threading.get_ident())
        done.release()

    for _ in range(30):
        threads.start(work)
    assert all(done.acquire(timeout=10) for _ in range(30))
    assert len(seen) == 3


def test_the_queue_for_threads_is_bounded() -> None:
    threads, release = Threads(most=1, most_waiting=2), threading.Event()
    jobs = [threads.start(lambda: release.wait(30) and None) for _ in range(3)]
    with pytest.raises(ToolBusy, match="wait for a thread"):
        threads.start(lambda: None)
    assert threads.give_up(jobs[2]) is False  # it had not begun
    threads.start(lambda: None)
    release.set()
