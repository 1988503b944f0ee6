"""Conversations are remembered as they were, for their tenant, and said in short where they grow too long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_support import Deeds, go, store_in

from deepseek.agent import Agent, Approval, Memory
from deepseek.agent.memory import length, shortened
from deepseek.agent.record import EventStore
from deepseek.agent.testing import Asked, ScriptedModel, calls
from deepseek.core.errors import ConfigError, ModelError
from deepseek.core.messages import Message, TextPart, ToolCallPart, ToolResultPart


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


def answer(text: str) -> Message:
    return Message("assistant", (TextPart(text),))


CALL = Message("assistant", (ToolCallPart("c", "f", "{}"),))
RESULT = Message("tool", (ToolResultPart("c", "1"),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    kept = store_in(tmp_path)
    yield kept
    kept.close()


def test_the_next_run_sees_all_that_was_said_calls_and_results_included(store: EventStore) -> None:
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2}), text="So:"), "It is 3.", "Still 3.")
    agent = Agent(model, Deeds().registry, memory=Memory(store))

    async def main() -> None:
        first = await agent.run("1 + 2?", conversation="c")
        second = await agent.run("Sure?", conversation="c")
        assert (first.answer, second.answer) == ("It is 3.", "Still 3.")
        assert model.asked[2].messages == (*model.asked[1].messages, answer("It is 3."), user("Sure?"))
        assert (await agent.run("1 + 2?", conversation="other")).answer == "It is 3."
        assert len(await Memory(store).recall("local", "c")) == 6

    go(main())


def test_tenants_do_not_share_conversations(store: EventStore) -> None:
    agent = Agent(ScriptedModel("A.", "B."), memory=Memory(store))

    async def main() -> None:
        assert (await agent.run("x", conversation="c", tenant="one")).answer == "A."
        assert (await agent.run("x", conversation="c", tenant="two")).answer == "A."
        await agent.memory.forget("one", "c")  # type: ignore[union-attr]
        assert await Memory(store).recall("one", "c") == [] and len(await Memory(store).recall("two", "c")) == 2

    go(main())


def test_a_run_that_failed_leaves_no_half_exchange(store: EventStore) -> None:
    agent = Agent(ScriptedModel(ModelError("gone")), memory=Memory(store))

    async def main() -> None:
        with pytest.raises(ModelError):
            await agent.run("x", conversation="c")
        assert await Memory(store).recall("local", "c") == []

    go(main())


def test_a_run_that_waited_for_a_person_is_remembered_once_it_is_finished(store: EventStore) -> None:
    agent = Agent(ScriptedModel("Hi.", calls(("send", {"to": "Ada"})), "Sent."), Deeds().registry, memory=Memory(store))

    async def main() -> None:
        await agent.run("Hello", conversation="c")
        found = await agent.run("Write to Ada", conversation="c")
        assert len(await Memory(store).recall("local", "c")) == 2 and found.state is not None
        await agent.resume(found.state, [Approval(found.approvals[0].id, True)])
        texts = [message.text for message in await Memory(store).recall("local", "c")]
        assert texts == ["Hello", "Hi.", "Write to Ada", "", "", "Sent."]

    go(main())


def test_what_is_old_is_summarised_and_the_summary_is_kept(store: EventStore) -> None:
    def said(asked: Asked) -> str:
        if asked.messages[-1].text.startswith("Summarise"):
            assert [message.text for message in asked.messages[:-1]] == ["a" * 50, "A."]
            return "The user said a."
        return "B."

    memory = Memory(store, most_chars=60, keep=1)

    async def main() -> None:
        await Agent(ScriptedModel("A."), memory=memory).run("a" * 50, conversation="c")
        model = ScriptedModel(*[said] * 4)
        await Agent(model, memory=memory).run("b" * 20, conversation="c")
        shown = model.asked[-1].messages
        assert len(shown) == 2 and "The user said a." in shown[0].text and shown[1].text == "b" * 20
        kept = await memory.recall("local", "c")
        assert [message.text for message in kept] == [*(message.text for message in shown), "B."]

    go(main())


def test_runs_of_one_conversation_at_once_lose_nothing(store: EventStore) -> None:
    # A run may or may not see the turns of others, so each says the same however many there are.
    agent = Agent(ScriptedModel(*["A."] * 21), memory=Memory(store))

    async def main() -> None:
        await asyncio.gather(*(agent.run(f"{index}", conversation="c") for index in range(20)))
        kept = await Memory(store).recall("local", "c")
        assert sorted(message.text for message in kept if message.role == "user") == sorted(map(str, range(20)))

    go(main())


def test_a_conversation_needs_a_memory(store: EventStore) -> None:
    with pytest.raises(ConfigError, match="memory"):
        go(Agent(ScriptedModel("A.")).run("x", conversation="c"))
    with pytest.raises(ConfigError):
        Memory(store, keep=0)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    said: list[Message] = []
    for _ in range(draw(st.integers(1, 4))):
        said.append(user("u"))
        for _ in range(draw(st.integers(0, 3))):
            said += [CALL, RESULT]
        if draw(st.booleans()):
            said.append(answer("a"))
    return said


@given(conversations())
def test_shortening_comes_to_an_end_and_leaves_no_result_without_its_call(said: list[Message]) -> None:
    last = max(index for index, message in enumerate(said) if message.role == "user")
    rounds = 0
    current: Any = said
    while (shorter := shortened(current)) is not None:
        assert len(shorter) < len(current) and shorter[0].role == "user"
        for index, message in enumerate(shorter):
            assert message.role != "tool" or shorter[index - 1] == CALL
        current, rounds = shorter, rounds + 1
    assert rounds <= len(said) and current[0] == said[last]
    assert sum(map(length, current)) <= sum(map(length, said))
