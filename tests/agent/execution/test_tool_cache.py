"""Results of pure tools: kept by tenant, tool, version and arguments; made once at a time."""

import asyncio
import time
from typing import Any

import pytest
from execution_support import Clock, Run, bounded, call, registry_of
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent import ToolContext
from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.cache import Kept, Key, ToolCache
from deepseek.agent.execution.errors import ToolFailed
from deepseek.core.messages import ToolCallPart


class Counting:
    """A pure tool that counts how often it runs."""

    def __init__(self) -> None:
        self.ran = 0

    async def count(self, a: int, b: int = 0) -> int:
        self.ran += 1
        return self.ran


def test_a_pure_call_runs_once_whatever_the_order_and_spacing_of_its_arguments() -> None:
    tool = Counting()
    run = Run(registry_of(tool.count, pure=True), cache=ToolCache())
    texts = ['{"a":1,"b":2}', '{ "b": 2, "a": 1 }', '{"a": 1, "b": 2}']
    results = [run(ToolCallPart(str(i), "count", text))[0] for i, text in enumerate(texts)]
    assert [result.text for result in results] == ["1", "1", "1"] and tool.ran == 1
    assert [(result.cached, result.attempts) for result in results] == [(False, 1), (True, 0), (True, 0)]
    assert run.kinds("1") == ["tool_started", "tool_finished"]


def test_other_arguments_tenants_and_versions_are_other_results() -> None:
    tool = Counting()
    cache = ToolCache()
    first = Run(registry_of(tool.count, pure=True), cache=cache)
    second = Run(registry_of(tool.count, pure=True, version="2"), cache=cache)
    contexts = [ToolContext(), ToolContext(tenant="acme"), ToolContext(tenant="other")]
    for run in (first, second):
        for context in contexts:
            for a in (1, 2):
                run(call("count", a=a), context=context)
    assert tool.ran == 12


def test_numbers_that_are_equal_but_written_otherwise_are_told_apart() -> None:
    def kind(a: Any) -> str:
        return type(a).__name__

    run = Run(registry_of(kind, pure=True), cache=ToolCache())
    assert [run(ToolCallPart("1", "kind", f'{{"a": {text}}}'))[0].text for text in ("1", "1.0", "true", '"1"')] == [
        "int", "float", "bool", "str"
    ]  # fmt: skip


def test_tools_that_are_not_pure_and_executors_without_a_cache_always_run() -> None:
    tool = Counting()
    for run in (Run(registry_of(tool.count), cache=ToolCache()), Run(registry_of(tool.count, pure=True))):
        run(call("count", a=1))
        run(call("count", a=1))
    assert tool.ran == 4


def test_failures_are_not_kept() -> None:
    tries: list[int] = []

    async def shaky(a: int) -> str:
        tries.append(a)
        if len(tries) == 1:
            raise ToolFailed("not yet")
        return "ok"

    run = Run(registry_of(shaky, pure=True), cache=ToolCache())
    assert run(call("shaky", a=1))[0].status == "error"
    assert run(call("shaky", a=1))[0].text == "ok" and len(tries) == 2


class Gate:
    """A pure tool whose runs wait until they are told how to end."""

    def __init__(self) -> None:
        self.entered = 0
        self.waiting: list[asyncio.Future[str]] = []

    async def pass_(self) -> str:
        self.entered += 1
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return await future

    async def until(self, entered: int) -> None:
        while self.entered < entered:
            await asyncio.sleep(0)


def gate_run() -> tuple[Gate, Run]:
    gate = Gate()
    return gate, Run(registry_of(gate.pass_, pure=True), cache=ToolCache())


def start(run: Run, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(run.executor.run([ToolCallPart(str(i), "pass_", "")])) for i in range(count)]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_calls_that_come_together_are_one() -> None:
    async def scenario() -> None:
        gate, run = gate_run()
        tasks = start(run, 5)
        await settle()
        assert gate.entered == 1
        gate.waiting[0].set_result("once")
        results = [result for (result,) in await asyncio.gather(*tasks)]
        assert [result.text for result in results] == ["once"] * 5
        assert [result.cached for result in results] == [False, True, True, True, True]

    bounded(scenario())


def test_the_same_call_twice_in_one_step_runs_once() -> None:
    tool = Counting()
    results = Run(registry_of(tool.count, pure=True), cache=ToolCache())(
        *(call("count", str(i), a=1) for i in range(4))
    )
    assert [result.text for result in results] == ["1"] * 4 and tool.ran == 1


def test_a_leader_that_fails_does_not_fail_its_followers() -> None:
    async def scenario() -> None:
        gate, run = gate_run()
        leader, *followers = start(run, 4)
        await settle()
        gate.waiting[0].set_exception(ToolFailed("only me"))
        await gate.until(2)
        await settle()
        assert gate.entered == 2  # the followers do not all run at once now
        gate.waiting[1].set_result("fine")
        assert (await leader)[0].text == "only me"
        assert [(await follower)[0].text for follower in followers] == ["fine"] * 3

    bounded(scenario())


def test_a_leader_that_is_cancelled_hands_over() -> None:
    async def scenario() -> None:
        gate, run = gate_run()
        leader, *followers = start(run, 3)
        await settle()
        leader.cancel()
        await gate.until(2)
        gate.waiting[1].set_result("fine")
        assert [(await follower)[0].text for follower in followers] == ["fine"] * 2
        assert leader.cancelled()

    bounded(scenario())


def test_a_follower_that_is_cancelled_takes_nobody_with_it() -> None:
    async def scenario() -> None:
        gate, run = gate_run()
        leader, first, second = start(run, 3)
        await settle()
        first.cancel()
        await settle()
        gate.waiting[0].set_result("fine")
        assert (await leader)[0].text == (await second)[0].text == "fine" and first.cancelled()

    bounded(scenario())


def test_a_follower_waits_no_longer_than_its_own_time() -> None:
    async def scenario() -> None:
        gate, run = gate_run()
        leader = start(run, 1)[0]
        await settle()
        soon = ToolContext(deadline=time.monotonic() + 0.05)
        (late,) = await run.executor.run([ToolCallPart("late", "pass_", "")], context=soon)
        assert late.kind == "timeout" and gate.entered == 1
        gate.waiting[0].set_result("fine")
        assert (await leader)[0].text == "fine"

    bounded(scenario())


def test_results_grow_old() -> None:
    clock, tool = Clock(), Counting()
    registry = registry_of(tool.count, pure=True, cache_ttl_s=10)
    run = Run(registry, cache=ToolCache(clock=clock, ttl_s=1000))
    run(call("count", a=1))
    clock.now += 9.9
    assert run(call("count", a=1))[0].cached
    clock.now += 0.2
    assert not run(call("count", a=1))[0].cached and tool.ran == 2


def key(name: str, tenant: str | None = None) -> Key:
    return tenant, "tool", "1", name


def test_the_least_recently_used_goes_first() -> None:
    cache = ToolCache(max_entries=2)
    for name in ("a", "b"):
        cache.put(key(name), Kept(name, False))
    assert cache.get(key("a")) == Kept("a", False)
    cache.put(key("c"), Kept("c", False))
    assert cache.get(key("b")) is None and cache.get(key("a")) is not None


def test_one_tenants_results_can_be_forgotten() -> None:
    cache = ToolCache()
    for tenant in ("acme", "other"):
        cache.put(key("a", tenant), Kept("x", False))
    cache.clear("acme")
    assert cache.get(key("a", "acme")) is None and cache.get(key("a", "other")) is not None
    cache.clear()
    assert len(cache) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60)), max_size=60),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_it_never_holds_more_than_it_may_and_never_answers_wrongly(
    puts: list[tuple[str, int]], entries: int, size: int
) -> None:
    cache, last = ToolCache(max_entries=entries, max_bytes=size), {}
    for name, length in puts:
        cache.put(key(name), Kept(name * length, False))
        last[name] = name * length
        assert len(cache) <= entries
        held = {other: cache.get(key(other)) for other in last}
        assert all(kept is None or kept.text == last[other] for other, kept in held.items())
        assert sum(len(kept.text) for kept in held.values() if kept) <= size


def test_a_tool_that_needs_a_person_asks_every_time_however_pure_it_is() -> None:
    tool = Counting()
    run = Run(registry_of(tool.count, pure=True, needs_approval=True), cache=ToolCache())
    (first,) = run(call("count", a=1))
    assert first.approval is not None
    approvals = {first.approval.id: Approval(first.approval.id, True)}
    assert run(call("count", a=1), finished={"count": first}, approvals=approvals)[0].text == "1"
    assert run(call("count", a=1))[0].status == "suspended"  # though the result is kept


def test_calls_that_come_together_are_one_even_where_nothing_can_be_kept() -> None:
    tool = Counting()
    run = Run(registry_of(tool.count, pure=True), cache=ToolCache(max_bytes=0))
    results = run(*(call("count", str(i), a=1) for i in range(4)))
    assert [result.text for result in results] == ["1"] * 4 and tool.ran == 1


@pytest.mark.parametrize("inline", [True, False])
def test_a_kept_result_needs_no_task_and_no_thread(inline: bool) -> None:
    def work() -> str:
        return "x"

    run = Run(registry_of(work, pure=True, inline=inline), cache=ToolCache())

    async def scenario() -> None:
        await run.executor.run([call("work")])
        step = run.executor.run([call("work")])
        with pytest.raises(StopIteration):  # it ends without having waited for anything
            step.send(None)

    bounded(scenario())
