"""Plans: asked for under a schema, checked, gone by, and made anew where they fail."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent import Agent, AgentError, Limits, Plan, ToolRegistry
from deepseek.agent.decision.final import OutputFault
from deepseek.agent.decision.plan import PlanStep, plan_schema, read_plan
from deepseek.agent.execution.errors import ToolFailed
from deepseek.agent.testing import Say, ScriptedModel, calls
from deepseek.chat.local import LocalModel
from deepseek.core.messages import ToolCallPart, ToolSpec
from deepseek.engine.build import EngineOptions

registry = ToolRegistry()
DONE: list[str] = []


@registry.register("look_up")
async def look_up(what: str) -> str:
    """Look something up."""
    for _ in range(5):
        await asyncio.sleep(0)  # later than whatever does not wait for it
    DONE.append(f"look_up {what}")
    return "42"


@registry.register("write")
async def write(text: str) -> str:
    """Write it down."""
    DONE.append(f"write {text}")
    return "written"


@registry.register("break")
async def break_() -> str:
    """Break."""
    raise ToolFailed("it is broken for good")


def plan_json(*steps: tuple[str, str | None, list[str]]) -> str:
    return json.dumps(
        {"steps": [{"id": one, "task": f"do {one}", "tool": tool, "depends": after} for one, tool, after in steps]}
    )


GOOD = plan_json(("1", "look_up", []), ("2", "write", ["1"]))
SPECS = [ToolSpec("look_up", "", {}), ToolSpec("write", "", {})]


def test_the_articles_line_gives_a_typed_plan() -> None:
    model = ScriptedModel(GOOD)
    agent = Agent(model, registry, instructions="Plan well.")
    plan = agent.generate_plan("Find the price and note it.")
    assert isinstance(plan, Plan) and [(step.tool, step.depends) for step in plan.steps] == [
        ("look_up", ()),
        ("write", ("1",)),
    ]
    (asked,) = model.asked
    assert asked.schema is not None and asked.tools == ()
    jsonschema.validate(json.loads(GOOD), asked.schema)
    jsonschema.validate(json.loads(plan.model_dump_json()), asked.schema)
    assert [message.role for message in asked.messages] == ["system", "user"]
    assert asked.messages[-1].text.endswith("Find the price and note it.")


def test_the_built_in_model_makes_a_plan_because_the_grammar_leaves_nothing_else() -> None:
    model = LocalModel.load("builtin", EngineOptions(max_sequences=2))
    agent = Agent(model, registry, plan_sizes=(2, 40))

    async def main() -> Plan:
        try:
            return await agent.agenerate_plan("Look up the price and write it down.")
        finally:
            await model.close()

    plan = asyncio.run(main())
    assert 1 <= len(plan.steps) <= 2 and all(step.tool in ("look_up", "write", "break", None) for step in plan.steps)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (plan_json(("1", "fly", [])), "fly"),
        (plan_json(("1", None, ["2"])), "2"),
        (plan_json(("1", None, ["2"]), ("2", None, ["1"])), "circle"),
        (plan_json(("1", None, []), ("1", None, [])), "id of its own"),
        ('{"steps": []}', "at least one"),
        ("Well, first", "does not fit"),
    ],
)
def test_a_plan_that_cannot_be_gone_by_is_told_to_the_model(wrong: str, told: str) -> None:
    model = ScriptedModel(wrong, GOOD)
    assert len(Agent(model, registry).generate_plan("x").steps) == 2
    assert told in model.asked[1].messages[-1].text
    with pytest.raises(AgentError, match="no plan"):
        Agent(ScriptedModel(*[wrong] * 9), registry, limits=Limits(corrections=1)).generate_plan("x")


def test_a_plan_that_was_cut_off_is_asked_for_again_shorter() -> None:
    lengths: list[int] = []

    def said(asked: Any) -> Say | str:
        most = asked.schema["properties"]["steps"]["maxItems"]
        lengths.append(most)
        return Say('{"steps": [', end="length") if most > 3 else plan_json(("1", None, []))

    Agent(ScriptedModel(said), registry, plan_sizes=(12, 300)).generate_plan("x")
    assert lengths == [12, 6, 3]


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, str | None, list[str]]]:
    count = draw(st.integers(1, 7))
    steps = [
        (
            str(at + 1),
            draw(st.sampled_from(["look_up", "write", None])),
            draw(st.lists(st.integers(1, at).map(str), max_size=3, unique=True)) if at else [],
        )
        for at in range(count)
    ]
    return draw(st.permutations(steps))


@given(graphs())
def test_steps_come_after_what_they_depend_on(graph: list[tuple[str, str | None, list[str]]]) -> None:
    plan = read_plan(plan_json(*graph), SPECS)
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.depends) <= seen
        seen.add(step.id)
    waves = plan.waves()
    assert sorted(step.id for wave in waves for step in wave) == sorted(seen)
    before: set[str] = set()
    for wave in waves:
        assert all(set(step.depends) <= before for step in wave)
        before |= {step.id for step in wave}
    made = [ToolCallPart(f"c{at}", step.tool, "{}") for at, step in enumerate(plan.steps) if step.tool]
    order = plan.order_of(made)
    place = {call.id: at for at, call in enumerate(made)}
    assert all(place[other] < place[call] for call, others in order.items() for other in others)


def test_calls_of_one_turn_wait_for_each_other_as_the_plan_says() -> None:
    DONE.clear()
    model = ScriptedModel(GOOD, calls(("write", {"text": "42"}), ("look_up", {"what": "price"})), "Done.", "Done.")
    # Planning is asked with the task; its answer is no turn of the conversation.
    script = ScriptedModel(
        lambda asked: GOOD if asked.schema else calls(("write", {"text": "42"}), ("look_up", {"what": "price"})),
        "Done.",
    )
    result = asyncio.run(Agent(script, registry, planning=True).run("Go"))
    assert DONE == ["look_up price", "write 42"] and result.status == "finished"
    assert [call.name for call in result.calls] == ["write", "look_up"]
    assert result.plan == read_plan(GOOD, SPECS) and "1. do 1 [look_up]" in script.asked[1].messages[-1].text
    assert len(model.asked) == 0


def test_what_was_done_before_is_not_waited_for_again() -> None:
    plan = read_plan(GOOD, SPECS)
    writes = [ToolCallPart("c", "write", "{}")]
    assert plan.order_of(writes, done=["look_up"]) == {}
    assert plan.order_of([*writes, ToolCallPart("d", "look_up", "{}")]) == {"c": ["d"]}
    # A second call of a tool that the plan names once belongs to no step.
    assert plan.order_of([*writes, ToolCallPart("d", "look_up", "{}"), ToolCallPart("e", "write", "{}")]) == {
        "c": ["d"]
    }


def test_a_plan_that_fails_is_made_anew_as_often_as_may_be() -> None:
    broken = plan_json(("1", "break", []))

    def said(asked: Any) -> Any:
        if asked.schema is not None:
            return GOOD if "failed at break" in asked.messages[-1].text else broken
        return calls(("break", {}))

    result = asyncio.run(Agent(ScriptedModel(said, said, said, said, "Done."), registry, planning=True).run("Go"))
    assert result.status == "finished" and result.plan == read_plan(GOOD, SPECS)
    assert sum("Go by this plan" in step.message.text for step in result.steps if hasattr(step, "origin")) == 3


@pytest.mark.parametrize("most", [1, 2, 12])
def test_the_schema_of_plans_is_one_and_names_the_tools(most: int) -> None:
    schema = plan_schema(SPECS, most)
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(plan_json(("1", "fly", []))), schema)


def test_plans_are_data() -> None:
    plan = Plan(steps=(PlanStep(id="1", task="x"),))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    with pytest.raises(OutputFault):
        read_plan('{"steps": [{"id": "1", "task": "x", "extra": 1}]}', SPECS)
