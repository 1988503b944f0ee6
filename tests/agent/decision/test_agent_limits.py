"""Limits of a run: what stops it, where, and that nothing goes on past it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent import Agent, Approval, Limits, Prices, ToolRegistry
from deepseek.agent.decision.limits import Spent
from deepseek.agent.testing import Asked, Line, Say, ScriptedModel, calls
from deepseek.core.engine import Usage
from deepseek.core.errors import ConfigError
from deepseek.core.sampling import SamplingParams

registry = ToolRegistry()


@registry.register("one")
async def one() -> int:
    """One."""
    return 1


LOOP = [calls(("one", {}))] * 50


def run(limits: Limits, *script: Line, **options: object):  # type: ignore[no-untyped-def]
    model = ScriptedModel(*(script or LOOP))
    agent = Agent(model, registry, limits=limits, **options)  # type: ignore[arg-type]
    return asyncio.run(agent.run("Go")), model


def test_turns_are_bounded() -> None:
    result, model = run(Limits(steps=3))
    assert (result.status, result.limit, result.turns) == ("limited", "steps", 3) and len(model.asked) == 3


def test_calls_are_bounded_and_none_beyond_is_run() -> None:
    result, _ = run(Limits(calls=5), *[calls(("one", {}), ("one", {}))] * 9)
    assert result.limit == "calls" and sum(call.result is not None for call in result.calls) == 4


def test_tokens_are_bounded_and_a_turn_may_generate_only_what_is_left() -> None:
    result, model = run(Limits(tokens=40), sampling=SamplingParams(max_tokens=1000, min_tokens=1000))
    assert result.limit == "tokens" and result.turns == 3  # of fifteen tokens each
    assert [asked.sampling.max_tokens for asked in model.asked if asked.sampling] == [40, 25, 10]


def test_money_is_bounded() -> None:
    prices = Prices(input=1.0, output=2.0)
    usage = Usage(1000, 500)
    result, model = run(
        Limits(cost=0.005), *[Say(calls=(("one", {}),), usage=usage)] * 9, prices=prices, sampling=SamplingParams()
    )
    assert result.limit == "money" and result.turns == 3 and result.cost == pytest.approx(0.006)
    assert model.asked[0].sampling is not None and model.asked[0].sampling.max_tokens == 256
    with pytest.raises(ConfigError, match="prices"):
        Agent(ScriptedModel(), limits=Limits(cost=1.0))
    with pytest.raises(ConfigError, match="prices"):
        asyncio.run(Agent(ScriptedModel("x")).run("?", limits=Limits(cost=1.0)))


def test_time_stops_a_model_that_hangs_and_a_tool_that_does() -> None:
    stopped: list[str] = []

    @registry.register("hang")
    async def hang() -> None:
        """Hang."""
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("tool")

    begun = time.monotonic()
    result, _ = run(Limits(seconds=0.3), calls(("hang", {})), "never")
    assert result.limit == "time" and stopped == ["tool"] and time.monotonic() - begun < 10

    def late(asked: Asked) -> Say:
        assert asked.deadline is not None and asked.deadline - time.monotonic() < 0.31
        return Say("so far", end="deadline")

    result, _ = run(Limits(seconds=0.3), late)
    assert (result.status, result.limit, result.answer) == ("limited", "time", "so far")


def test_a_model_that_does_not_heed_its_deadline_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.agent.decision.loop._GRACE_S", 0.05)
    left = []

    async def deaf(asked: Asked) -> Line:
        try:
            await asyncio.Event().wait()
        finally:
            left.append(True)
        return ""

    result, _ = run(Limits(seconds=0.1), deaf)
    assert (result.status, result.limit) == ("limited", "time") and left == [True]


def test_an_answer_that_was_cut_off_is_no_answer() -> None:
    result, _ = run(Limits(), Say("half an ans", end="length"))
    assert (result.status, result.limit, result.output) == ("limited", "length", None)
    assert result.answer == "half an ans"
    result, _ = run(Limits(), Say("half", end="budget"))
    assert result.limit == "budget"


@pytest.mark.parametrize("limits", [{"steps": 0}, {"tokens": 0}, {"seconds": -1.0}, {"corrections": -1}])
def test_limits_that_are_none_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="limits"):
        Limits(**limits)  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 100), st.floats(0, 100))
def test_a_price_is_for_what_was_used(prompt: int, cached: int, completion: int, price: float, dear: float) -> None:
    usage = Usage(prompt + cached, completion, cached)
    cost = Prices(price, dear, cached_input=0.0).of(usage)
    assert cost == pytest.approx((prompt * price + completion * dear) / 1e6)
    spent, above = Spent(parent=(outer := Spent())), outer
    spent.add(usage, cost)
    assert above.tokens == spent.tokens == usage.total_tokens and above.cost == cost


def test_what_was_spent_before_an_interruption_counts() -> None:
    asking = ToolRegistry()

    @asking.register("ask", needs_approval=True)
    async def ask() -> str:
        """Ask."""
        return "yes"

    agent = Agent(ScriptedModel(*[calls(("ask", {}))] * 9), asking, limits=Limits(steps=2, tokens=1000))

    async def main() -> None:
        first = await agent.run("Go")
        assert first.state is not None and first.state.spent["steps"] == 1
        second = await agent.resume(first.state, [Approval(first.approvals[0].id, True)])
        assert second.state is not None
        third = await agent.resume(second.state, [Approval(second.approvals[0].id, True)])
        assert (third.status, third.limit, third.turns, third.usage.total_tokens) == ("limited", "steps", 2, 30)

    asyncio.run(main())
