"""An agent as a tool of another: what it answers, spends, waits for, and how deep they may ask each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_support import Deeds, go, kinds, store_in

from deepseek.agent import Agent, Approval, Limits, ToolRegistry
from deepseek.agent.record import EventStore
from deepseek.agent.testing import Asked, Line, ScriptedModel, calls


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    kept = store_in(tmp_path)
    yield kept
    kept.close()


def over(inner: Agent, *script: Line, name: str = "clerk", store: EventStore | None = None, **options: object) -> Agent:
    registry = ToolRegistry([inner.as_tool(name, "Does errands.")])
    return Agent(ScriptedModel(*script), registry, name="boss", store=store, **options)  # type: ignore[arg-type]


ERRAND = calls(("clerk", {"task": "Write to Ada"}))


def test_its_answer_is_the_result_and_its_spending_is_the_askers(store: EventStore) -> None:
    deeds = Deeds()
    inner = Agent(ScriptedModel(calls(("add", {"a": 1, "b": 2})), "3"), deeds.registry, name="clerk", store=store)

    async def main() -> None:
        result = await over(inner, ERRAND, "It is 3.", store=store).run("1 + 2?")
        assert result.status == "finished" and result.calls[0].result is not None and result.calls[0].result.text == "3"
        assert result.usage.total_tokens == 60 and result.turns == 2
        mine, its = sorted(await store.runs("local"), key=lambda row: row.started)
        assert (mine.agent, its.agent) == ("boss", "clerk") and its.parent == f"{mine.id}/{result.calls[0].id}"
        assert (await kinds(store, its.id))[-1] == "run_finished"

    go(main())


def test_a_typed_answer_is_a_typed_result() -> None:
    inner = Agent(ScriptedModel('{"result": [1, 2]}'), name="clerk", output=list[int])
    result = go(over(inner, ERRAND, "Done.").run("Go"))
    assert result.calls[0].result is not None and result.calls[0].result.text == "[1, 2]"


def test_one_that_was_stopped_is_an_error_for_the_asker() -> None:
    deeds = Deeds()
    inner = Agent(ScriptedModel(*[calls(("add", {"a": 1, "b": 2}))] * 9), deeds.registry, limits=Limits(steps=2))
    result = go(over(inner, ERRAND, "Well.").run("Go"))
    assert result.calls[0].result is not None and "limit of steps" in result.calls[0].result.text


def test_the_askers_limits_hold_for_the_asked() -> None:
    async def hang(asked: Asked) -> Line:
        assert asked.deadline is not None
        await asyncio.sleep(max(0.0, asked.deadline - time.monotonic()))
        return "late"

    inner = Agent(ScriptedModel(hang), name="clerk", limits=Limits(seconds=3600))
    begun = time.monotonic()
    result = go(over(inner, ERRAND, "x", limits=Limits(seconds=0.3)).run("Go"))
    assert result.limit == "time" and time.monotonic() - begun < 20
    spender = Agent(ScriptedModel(calls(("add", {"a": 1, "b": 2})), "3"), Deeds().registry)
    result = go(over(spender, *[ERRAND] * 5, limits=Limits(tokens=50)).run("Go"))
    assert result.limit == "tokens" and result.turns == 2


def test_one_that_waits_for_a_person_makes_the_asker_wait_and_goes_on_with_it(store: EventStore) -> None:
    deeds = Deeds()
    inner = Agent(
        ScriptedModel(calls(("add", {"a": 1, "b": 2}), ("send", {"to": "Ada"})), "Sent."),
        deeds.registry,
        name="clerk",
        store=store,
    )
    boss = over(inner, ERRAND, "All done.", store=store)

    async def main() -> None:
        first = await boss.run("Go")
        assert first.status == "suspended" and deeds.done == ["add 1 2"] and first.state is not None
        (request,) = first.approvals
        assert request.tool == "clerk" and "send" in request.reason and "Ada" in request.reason
        last = await boss.resume(first.state.to_json(), [Approval(request.id, True)])
        assert last.status == "finished" and deeds.done == ["add 1 2", "send Ada"]
        assert last.calls[0].result is not None and last.calls[0].result.text == "Sent."
        statuses = {row.agent: row.status for row in await store.runs("local")}
        assert statuses == {"boss": "finished", "clerk": "finished"}

    go(main())


def test_a_no_reaches_the_asker(store: EventStore) -> None:
    deeds = Deeds()
    inner = Agent(ScriptedModel(calls(("send", {"to": "Ada"})), "Not sent."), deeds.registry, name="clerk")
    boss = over(inner, ERRAND, "Then not.")

    async def main() -> None:
        first = await boss.run("Go")
        assert first.state is not None
        last = await boss.resume(first.state, [Approval(first.approvals[0].id, False, "no letters")])
        assert last.answer == "Then not." and deeds.done == []
        assert last.calls[0].result is not None and "no letters" in last.calls[0].result.text

    go(main())


def test_agents_that_ask_each_other_come_to_an_end() -> None:
    registry = ToolRegistry()
    agent = Agent(ScriptedModel(ERRAND, "Enough."), registry, name="clerk")
    registry.add(agent.as_tool("clerk"))
    result = go(agent.run("Go"))
    assert result.status == "finished" and result.usage.total_tokens == 15 * 2 * 9


def test_several_are_asked_at_once() -> None:
    inner = Agent(ScriptedModel("done"), name="clerk")
    script = calls(*[("clerk", {"task": f"errand {index}"}) for index in range(8)])
    result = go(over(inner, script, "All done.").run("Go"))
    assert [call.result and call.result.text for call in result.calls] == ["done"] * 8
