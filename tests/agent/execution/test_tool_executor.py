"""Calls of one step: in parallel, in order, each for itself."""

import asyncio
import contextvars
import json
import signal
from collections.abc import Sequence
from typing import Any

import isolated_tools
import pytest
from execution_support import Run, bounded, call, registry_of

from deepseek.agent import Executor, Tool, ToolContext
from deepseek.agent.execution.cache import ToolCache
from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry
from deepseek.agent.execution.executor import ExecutorLimits
from deepseek.core.errors import ToolError
from deepseek.core.messages import ToolCallPart
from deepseek.tenancy.context import TenantContext, current_tenant


class Meeting:
    """Tools that come back only once so many of them run at the same time."""

    def __init__(self, size: int) -> None:
        self.size, self.here, self.most = size, 0, 0
        self.full = asyncio.Event()

    async def meet(self, number: int) -> int:
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here >= self.size:
            self.full.set()
        await self.full.wait()
        self.here -= 1
        return number


def test_calls_run_at_the_same_time_and_results_come_in_call_order() -> None:
    meeting = Meeting(8)
    results = Run(registry_of(meeting.meet))(*(call("meet", f"c{i}", number=i) for i in range(8)))
    assert [result.text for result in results] == [str(i) for i in range(8)]
    assert [result.call_id for result in results] == [f"c{i}" for i in range(8)]


def test_no_more_run_at_a_time_than_the_limits_say() -> None:
    for options, limits in (({"concurrency": 3}, ExecutorLimits()), ({}, ExecutorLimits(parallel=3))):
        meeting = Meeting(3)
        run = Run(registry_of(meeting.meet, **options), limits=limits)
        results = run(*(call("meet", f"c{i}", number=i) for i in range(9)))
        assert {result.status for result in results} == {"ok"} and meeting.most == 3


def test_a_tools_own_bound_holds_over_all_runs() -> None:
    meeting = Meeting(2)
    run = Run(registry_of(meeting.meet, concurrency=2))

    async def several() -> Any:
        return await asyncio.gather(*(run.executor.run([call("meet", number=i)]) for i in range(6)))

    assert len(bounded(several())) == 6 and meeting.most == 2


def test_a_call_that_finds_no_room_in_time_says_busy() -> None:
    async def hold(number: int) -> None:
        await asyncio.Event().wait()

    first, second = Run(registry_of(hold, concurrency=1, timeout_s=0.05))(
        call("hold", "a", number=1), call("hold", "b", number=2)
    )
    assert first.kind == "timeout" and second.kind == "busy" and second.retryable


class Worst(BaseException):
    pass


def test_failures_of_any_kind_stay_with_their_call() -> None:
    async def fail(how: str) -> None:
        await asyncio.sleep(0)
        raise ERRORS[how]

    def fail_in_thread(how: str) -> None:
        raise ERRORS[how]

    async def fine() -> str:
        await asyncio.sleep(0)
        return "ok"

    run = Run(registry_of(fail, fail_in_thread, fine))
    calls = [call(name, f"{name} {how}", how=how) for how in ERRORS for name in ("fail", "fail_in_thread")]
    *results, last = run(*calls, call("fine"))
    assert last.status == "ok"
    for result in results:
        expected = "refused" if "refused" in result.call_id else "error"
        assert (result.status, result.attempts) == (expected, 1), result
    assert run.kinds().count("tool_finished") == len(calls) + 1


ERRORS: dict[str, BaseException] = {
    "value": ValueError("no"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "cancelled": asyncio.CancelledError(),
    "own": Worst("worst"),
    "group": BaseExceptionGroup("all", [SystemExit(1), ValueError("x")]),
    "stop": StopIteration(1),
    "memory": MemoryError(),
    "timeout": TimeoutError(),
    "retry": ToolRetry("again"),
    "failed": ToolFailed("never"),
    "refused": ToolRefused("no"),
}


def test_endless_recursion_is_an_error_of_its_call() -> None:
    def deep(number: int) -> int:
        return deep(number + 1) + 1

    async def deep_too(number: int) -> int:
        return await deep_too(number + 1) + 1

    results = Run(registry_of(deep, deep_too))(call("deep", number=0), call("deep_too", number=0))
    assert [result.status for result in results] == ["error", "error"]
    assert all("RecursionError" in result.text for result in results)


def test_errors_tell_the_model_what_to_do() -> None:
    def fail(how: str) -> None:
        raise ERRORS[how]

    retry, failed, refused, value = Run(registry_of(fail))(
        *(call("fail", how, how=how) for how in ("retry", "failed", "refused", "value"))
    )
    assert (retry.kind, retry.retryable, retry.text) == ("retry", True, "again")
    assert (failed.kind, failed.retryable, failed.text) == ("failed", False, "never")
    assert (refused.status, refused.retryable, refused.text) == ("refused", False, "no")
    assert (value.kind, value.retryable, value.text) == ("failed", False, "ValueError: no")


@pytest.mark.parametrize("inline", [True, False])
def test_a_real_interrupt_passes(inline: bool) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    def interrupted_at_once() -> None:
        raise KeyboardInterrupt

    run = Run(registry_of(interrupted_at_once, inline=True) if inline else registry_of(interrupted))
    loop = asyncio.new_event_loop()  # unlike asyncio.run it leaves SIGINT to Python
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(run.executor.run([call("interrupted_at_once" if inline else "interrupted")]))
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


def test_an_unknown_tool_is_told_with_those_there_are() -> None:
    def one() -> None: ...

    (result,) = Run(registry_of(one))(call("two"))
    assert (result.status, result.kind, result.retryable) == ("error", "unknown_tool", True)
    assert result.text == "there is no tool 'two'; there are: one"


def test_dependent_calls_wait_and_see_what_came_before() -> None:
    order: list[str] = []

    async def note(name: str) -> str:
        await asyncio.sleep(0)
        order.append(name)
        return name

    run = Run(registry_of(note))
    calls = [call("note", name, name=name) for name in "dcba"]
    results = run(*calls, depends={"d": ["b", "c"], "c": ["a"], "b": ["a"]})
    assert order[0] == "a" and order[-1] == "d" and sorted(order) == list("abcd")
    assert [result.text for result in results] == list("dcba")


def test_what_depends_on_a_failed_call_is_not_run_and_the_rest_is() -> None:
    ran: list[str] = []

    def work(name: str) -> None:
        ran.append(name)
        if name == "a":
            raise ToolFailed("no")

    run = Run(registry_of(work))
    results = run(*(call("work", name, name=name) for name in "abcd"), depends={"b": ["a"], "c": ["b"]})
    assert [result.kind for result in results] == ["failed", "dependency", "dependency", None]
    assert sorted(ran) == ["a", "d"]
    assert results[1].text == "not run: a, which it depends on, failed"


@pytest.mark.parametrize(
    ("depends", "said"),
    [({"a": ["b"], "b": ["a"]}, "circle"), ({"a": ["a"]}, "circle"), ({"a": ["x"]}, "there is not; found 'x'")],
)
def test_dependencies_that_cannot_be_met_are_refused_at_once(depends: dict[str, list[str]], said: str) -> None:
    run = Run(registry_of(note_nothing))
    with pytest.raises(ToolError, match=said):
        run(call("note_nothing", "a"), call("note_nothing", "b"), depends=depends)
    assert run.events == []


def note_nothing() -> None: ...


def test_two_calls_of_one_id_are_not_mixed_up() -> None:
    def echo(text: str) -> str:
        return text

    first, second = Run(registry_of(echo))(call("echo", "1", text="a"), call("echo", "1", text="b"))
    assert first.text == "a" and second.status == "error" and "same id" in second.text


def test_what_depends_on_an_id_that_is_used_twice_depends_on_the_first() -> None:
    order: list[str] = []

    async def note(name: str) -> str:
        await asyncio.sleep(0)
        order.append(name)
        return name

    calls = [call("note", "1", name="a"), call("note", "1", name="b"), call("note", "2", name="c")]
    first, second, third = Run(registry_of(note))(*calls, depends={"2": ["1"]})
    assert (first.status, second.status, third.status) == ("ok", "error", "ok") and order == ["a", "c"]


def test_more_calls_than_a_step_may_have_are_answered_and_not_run() -> None:
    ran: list[int] = []

    def work(number: int) -> None:
        ran.append(number)

    run = Run(registry_of(work, inline=True), limits=ExecutorLimits(calls=2))
    results = run(*(call("work", str(i), number=i) for i in range(4)))
    assert [result.status for result in results] == ["ok", "ok", "error", "error"] and ran == [0, 1]


def test_every_call_begins_and_ends_in_the_record_exactly_once() -> None:
    async def work(number: int) -> str:
        await asyncio.sleep(0)
        return "done"

    run = Run(registry_of(work))
    run(*(call("work", str(i), number=i) for i in range(3)), call("work", "bad"))
    for i in range(3):
        assert run.kinds(str(i)) == ["tool_started", "tool_finished"]
    assert run.kinds("bad") == ["tool_finished"]
    started = next(fields for kind, fields in run.events if kind == "tool_started")
    assert started == {"run_id": "run", "call_id": "0", "name": "work", "arguments": '{"number":0}'}
    finished = next(fields for kind, fields in run.events if kind == "tool_finished" and fields["call_id"] == "0")
    assert finished["status"] == "ok" and finished["text"] == "done" and finished["duration_ms"] > 0


def test_a_recorder_that_fails_takes_no_call_with_it() -> None:
    def work() -> str:
        return "done"

    def broken(kind: str, **fields: Any) -> None:
        raise OSError("disk full")

    executor = Executor(registry_of(work), record=broken)
    (result,) = bounded(executor.run([call("work")]))
    assert result.status == "ok"


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


def test_context_variables_reach_tools_wherever_they_run() -> None:
    async def later() -> str:
        return TENANT.get()

    def thread() -> str:
        return TENANT.get()

    run = Run(registry_of(later, thread))

    async def as_tenant(name: str) -> list[str]:
        TENANT.set(name)
        return [result.text for result in await run.executor.run([call("later"), call("thread")])]

    async def several() -> Any:
        return await asyncio.gather(*(as_tenant(f"t{i}") for i in range(20)))

    assert bounded(several()) == [[f"t{i}"] * 2 for i in range(20)]


def test_a_tool_learns_whose_call_it_is() -> None:
    async def whose(context: ToolContext) -> str:
        return f"{context.tenant} {context.run_id} {context.call_id} {context.services['db']}"

    context = ToolContext(tenant="acme", run_id="r1", services={"db": "sqlite"})
    (result,) = Run(registry_of(whose))(call("whose", "c9"), context=context)
    assert result.text == "acme r1 c9 sqlite"


def test_tools_work_in_the_name_of_the_contexts_tenant_wherever_they_run() -> None:
    async def later() -> str:
        return current_tenant()

    def thread() -> str:
        return current_tenant()

    registry = registry_of(later, thread)
    registry.register("process", isolated_tools.tenant, isolate=True)
    run = Run(registry)
    calls = [call("later"), call("thread"), call("process")]
    assert [result.text for result in run(*calls, context=ToolContext(tenant="acme"))] == ["acme"] * 3
    with TenantContext("other"):
        assert [result.text for result in run(*calls, context=ToolContext(tenant="acme"))] == ["acme"] * 3
        assert [result.text for result in run(*calls, context=ToolContext())] == ["other"] * 3
        assert current_tenant() == "other"
    nobody = run(*calls, context=ToolContext())
    assert all(result.status == "error" and "no tenant is set" in result.text for result in nobody)


def test_the_tenant_at_hand_keeps_kept_results_apart() -> None:
    def whose() -> str:
        return current_tenant()

    run = Run(registry_of(whose, pure=True), cache=ToolCache())
    for tenant in ("acme", "other", "acme"):
        with TenantContext(tenant):
            assert run(call("whose"), context=ToolContext())[0].text == tenant


class Server:
    """A toolset that is no registry, as a connection to an MCP server is."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = tools

    async def tools(self) -> Sequence[Tool]:
        return self._tools


def test_tools_of_several_toolsets_are_found() -> None:
    async def remote(**arguments: Any) -> str:
        return json.dumps(arguments)

    def local() -> str:
        return "here"

    schema = {"type": "object", "properties": {"path-name": {"type": "string"}}, "required": ["path-name"]}
    server = Server(Tool("fs.read", "Reads.", schema, remote))
    run = Run([registry_of(local), server])
    good, bad, here = run(
        ToolCallPart("1", "fs_dot_read", '{"path-name": "a"}'), call("fs.read", "2"), call("local", "3")
    )
    assert good.text == '{"path-name": "a"}' and "path-name: missing" in bad.text and here.text == "here"
    assert [spec.name for spec in bounded(run.executor.specs())] == ["local", "fs_dot_read"]


def test_two_tools_of_one_name_are_refused() -> None:
    def one() -> None: ...

    with pytest.raises(ToolError, match="two tools of one name"):
        bounded(Executor([registry_of(one), registry_of(one)]).tools())


def test_a_toolset_that_fails_fails_the_call_alone() -> None:
    class Dead:
        async def tools(self) -> Sequence[Tool]:
            raise ConnectionError("gone")

    def local() -> str:
        return "here"

    lost, here = Run([registry_of(local), Dead()])(call("remote"), call("local"))
    assert here.status == "ok" and (lost.status, lost.kind) == ("error", "unknown_tool")
    assert "a toolset does not answer: ConnectionError: gone" in lost.text


def test_cancelling_a_step_cancels_its_calls() -> None:
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def cancelled() -> None:
        before = asyncio.all_tasks()
        executor = Executor(registry_of(wait))
        step = asyncio.ensure_future(executor.run([call("wait", "a", name="a"), call("wait", "b", name="b")]))
        for _ in range(5):
            await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert sorted(ended) == ["a", "b"] and executor.stuck == 0
        assert asyncio.all_tasks() == before

    bounded(cancelled())


def test_a_call_past_the_runs_deadline_is_not_begun() -> None:
    def work() -> str:
        return "done"

    (result,) = Run(registry_of(work))(call("work"), context=ToolContext(deadline=0.0))
    assert result.kind == "deadline" and result.attempts == 0


def test_two_hundred_steps_at_once_lose_no_call_and_no_event() -> None:
    async def echo(text: str) -> str:
        await asyncio.sleep(0)
        return text

    def echo_in_thread(text: str) -> str:
        return text

    run = Run(registry_of(echo, echo_in_thread))

    async def step(number: int) -> list[str]:
        names = ("echo", "echo", "echo_in_thread", "echo_in_thread")
        calls = [call(name, f"{number}.{i}", text=f"{number} {i}") for i, name in enumerate(names)]
        return [result.text for result in await run.executor.run(calls)]

    async def all_steps() -> Any:
        return await asyncio.gather(*(step(i) for i in range(200)))

    assert bounded(all_steps()) == [[f"{n} {i}" for i in range(4)] for n in range(200)]
    assert run.kinds().count("tool_started") == run.kinds().count("tool_finished") == 800
