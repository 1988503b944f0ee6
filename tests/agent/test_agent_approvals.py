"""A run that waits for a person is put away as JSON and goes on in any process, without running anything twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_support import Deeds, events_of, go, kinds, store_in

from deepseek.agent import Agent, AgentError, Approval, RunResult, RunState
from deepseek.agent.execution.approval import ApprovalRequest
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.record import EventStore, Recorded
from deepseek.agent.steps import ModelStep, SaidStep, SummaryStep, ToolStep
from deepseek.agent.testing import ScriptedModel, calls
from deepseek.core.engine import Usage
from deepseek.core.messages import MediaPart, Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from deepseek.tenancy import TenantContext

BOTH = calls(("add", {"a": 1, "b": 2}), ("send", {"to": "Ada"}), ("send", {"to": "Bob"}))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    kept = store_in(tmp_path)
    yield kept
    kept.close()


def agent_of(deeds: Deeds, store: EventStore | None = None, *script: Any) -> Agent:
    return Agent(ScriptedModel(*(script or (BOTH, "Sent."))), deeds.registry, store=store, name="clerk")


def test_a_call_that_needs_consent_waits_and_its_siblings_finish(store: EventStore) -> None:
    deeds = Deeds()
    result = go(agent_of(deeds, store).run("Go"))
    assert result.status == "suspended" and result.output is None and deeds.done == ["add 1 2"]
    assert [(request.tool, request.arguments) for request in result.approvals] == [
        ("send", '{"to":"Ada"}'),
        ("send", '{"to":"Bob"}'),
    ]
    assert len({request.id for request in result.approvals}) == 2


def test_it_goes_on_from_its_json_and_runs_nothing_twice(store: EventStore) -> None:
    deeds = Deeds()
    agent = agent_of(deeds, store)

    async def main() -> None:
        first = await agent.run("Go")
        assert first.state is not None
        ada, bob = first.approvals
        # What the store kept is the same state.
        assert await store.state("local", first.run_id) == first.state.to_json()
        last = await agent.resume(
            first.state.to_json(), [Approval(ada.id, True, by="eve"), Approval(bob.id, False, "not him")]
        )
        assert last.status == "finished" and last.answer == "Sent." and deeds.done == ["add 1 2", "send Ada"]
        added, sent, refused = (call.result for call in last.calls)
        assert added and sent and refused and (added.status, sent.status, refused.status) == ("ok", "ok", "refused")
        assert "not him" in refused.text and last.run_id == first.run_id and last.turns == 2
        told = await kinds(store, first.run_id)
        assert told.count("run_started") == 1 and told.count("run_suspended") == 1 and told[-1] == "run_finished"
        answered = await events_of(store, first.run_id, "approval_answered")
        assert [(event.data["approved"], event.data["by"]) for event in answered] == [(True, "eve"), (False, "")]
        events = await store.events("local", first.run_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))

    go(main())


def test_what_was_not_answered_goes_on_waiting(store: EventStore) -> None:
    deeds = Deeds()
    agent = agent_of(deeds, store)

    async def main() -> None:
        first = await agent.run("Go")
        assert first.state is not None
        second = await agent.resume(first.state, [Approval(first.approvals[1].id, True)])
        assert second.status == "suspended" and deeds.done == ["add 1 2", "send Bob"]
        assert second.approvals == first.approvals[:1] and second.state is not None
        last = await agent.resume(second.state, [Approval(second.approvals[0].id, True)])
        assert last.status == "finished" and deeds.done == ["add 1 2", "send Bob", "send Ada"]

    go(main())


def test_a_state_is_taken_up_once(store: EventStore) -> None:
    deeds = Deeds()
    agent = agent_of(deeds, store)

    async def main() -> None:
        first = await agent.run("Go")
        assert first.state is not None
        yes = [Approval(request.id, True) for request in first.approvals]
        await agent.resume(first.state, yes)
        with pytest.raises(AgentError, match="already"):
            await agent.resume(first.state, yes)
        assert deeds.done.count("send Ada") == 1

    go(main())


def test_an_answer_to_something_else_is_refused(store: EventStore) -> None:
    async def main() -> None:
        one, other = await agent_of(Deeds(), store).run("Go"), await agent_of(Deeds(), store).run("Go")
        assert one.state is not None and other.state is not None
        with pytest.raises(AgentError, match="nothing that was asked"):
            await agent_of(Deeds(), store).resume(one.state, [Approval(other.approvals[0].id, True)])

    go(main())


def test_a_state_is_for_its_agent_and_its_tenant(store: EventStore) -> None:
    async def main() -> None:
        with TenantContext("acme"):
            found = await agent_of(Deeds(), store).run("Go")
        assert found.state is not None and found.state.tenant == "acme"
        with pytest.raises(AgentError, match="another agent"):
            await Agent(ScriptedModel(), name="other", store=store).resume(found.state)
        with TenantContext("umbrella"), pytest.raises(AgentError, match="another tenant"):
            await agent_of(Deeds(), store).resume(found.state)
        last = await agent_of(Deeds(), store).resume(found.state, [Approval(one.id, True) for one in found.approvals])
        assert last.status == "finished" and (await kinds(store, found.run_id, "acme"))[-1] == "run_finished"

    go(main())


def test_other_arguments_than_the_person_saw_are_asked_about_anew(store: EventStore) -> None:
    deeds = Deeds()

    async def main() -> None:
        found = await agent_of(deeds, store, calls(("send", {"to": "Ada"})), "Sent.").run("Go")
        assert found.state is not None
        forged = json.loads(found.state.to_json())
        for step in forged["steps"]:
            for part in step.get("message", {}).get("parts", []):
                if "call" in part:
                    part["arguments"] = '{"to": "Mallory"}'
        result = await agent_of(deeds, store).resume(json.dumps(forged), [Approval(found.approvals[0].id, True)])
        assert result.status == "suspended" and deeds.done == []

    go(main())


def test_a_stream_goes_on_too(store: EventStore) -> None:
    agent = agent_of(Deeds(), store)

    async def main() -> None:
        pieces = [piece async for piece in agent.run_stream("Go")]
        first = pieces[-1]
        assert isinstance(first, RunResult) and first.state is not None
        last_seq = max(piece.seq for piece in pieces if isinstance(piece, Recorded))
        yes = [Approval(request.id, True) for request in first.approvals]
        more = [piece async for piece in agent.resume_stream(first.state, yes)]
        assert isinstance(more[-1], RunResult) and more[-1].status == "finished"
        assert min(piece.seq for piece in more if isinstance(piece, Recorded)) == last_seq + 1

    go(main())


_OTHER_PROCESS = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from run_support import Deeds, store_in
from deepseek.agent import Agent, Approval, RunState
from deepseek.agent.testing import ScriptedModel

async def main():
    deeds, store = Deeds(), store_in(Path(sys.argv[2]))
    agent = Agent(ScriptedModel("never", "Sent."), deeds.registry, store=store, name="clerk")
    text = await store.state("local", sys.argv[3])
    state = RunState.from_json(text)
    result = await agent.resume(text, [Approval(request.id, True) for request in state.approvals])
    print(result.status, result.answer, deeds.done)
    store.close()

asyncio.run(main())
"""


def test_it_goes_on_in_another_process(store: EventStore, tmp_path: Path) -> None:
    deeds = Deeds()
    found = go(agent_of(deeds, store).run("Go"))
    ran = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, str(Path(__file__).parent), str(tmp_path), found.run_id],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.stdout.strip() == "finished Sent. ['send Ada', 'send Bob']", ran.stderr
    assert deeds.done == ["add 1 2"] and go(kinds(store, found.run_id))[-1] == "run_finished"


texts = st.text(max_size=20)
parts = st.one_of(
    texts.map(TextPart),
    texts.map(ThinkingPart),
    st.builds(ToolCallPart, texts, texts, texts),
    st.builds(ToolResultPart, texts, texts),
    st.builds(MediaPart, st.sampled_from(["image", "audio", "video"]), texts, st.binary(max_size=9), st.none() | texts),
)
messages = st.builds(Message, st.sampled_from(["user", "assistant", "tool"]), st.lists(parts, max_size=3).map(tuple))
requests = st.builds(ApprovalRequest, texts, texts, texts, texts, texts, texts)
results = st.builds(
    ToolResult,
    texts,
    texts,
    st.sampled_from(["ok", "error", "refused", "suspended"]),
    texts,
    st.none() | st.just("failed"),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.floats(0, 9),
    st.none() | requests,
)
counts = st.integers(0, 99)
steps = st.one_of(
    st.builds(SaidStep, messages, st.sampled_from(["user", "correction"])),
    st.builds(ModelStep, messages, st.sampled_from(["stop", "calls"]), st.builds(Usage, counts, counts), st.booleans()),
    st.builds(ToolStep, st.lists(results, max_size=2).map(tuple)),
    st.builds(SummaryStep, texts, st.lists(messages, max_size=2).map(tuple)),
)


@given(st.lists(steps, max_size=4), st.dictionaries(texts, results, max_size=2), texts)
def test_a_state_comes_back_from_its_json_as_it_was(said: list[Any], waiting: dict[str, ToolResult], name: str) -> None:
    state = RunState("r", name, "t", 7, tuple(said), waiting, {"cost": 0.5}, {"steps": []}, {"c": "{}"}, None, {"a": 1})
    assert RunState.from_json(state.to_json()) == state


@given(st.recursive(st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_anything_else_is_no_state(value: Any) -> None:
    with pytest.raises(AgentError):
        RunState.from_json(json.dumps(value))


@pytest.mark.parametrize(
    "damage", [{"version": 2}, {"steps": [{"step": "dance"}]}, {"waiting": {"c": {}}}, {"seq": "x"}]
)
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    state = RunState("r", "a", "t", 1, (SaidStep(Message("user", (TextPart("x"),))),))
    with pytest.raises(AgentError):
        RunState.from_json(json.dumps(json.loads(state.to_json()) | damage))
