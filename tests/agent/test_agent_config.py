"""config.yaml: what it may say, what comes of it, and how a mistake in it is named."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deepseek.agent import Agent
from deepseek.agent.config import AgentConfig, load_agent
from deepseek.agent.record import EventStore
from deepseek.agent.testing import ScriptedModel, calls
from deepseek.chat.remote import RemoteModel
from deepseek.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_DATA", str(tmp_path / "data"))


def written(directory: Path, text: str, name: str = "config.yaml") -> Path:
    path = directory / name
    path.write_text(text, "utf-8")
    return path


def finished(agent: Agent, prompt: str = "Go", **options: Any) -> Any:
    async def main() -> Any:
        try:
            return await agent.run(prompt, **options)
        finally:
            await agent.aclose()

    return asyncio.run(main())


def test_an_empty_file_is_an_agent_of_the_built_in_model(tmp_path: Path) -> None:
    config = AgentConfig.from_file(written(tmp_path, ""))
    assert config == AgentConfig() and config.model == "builtin"


def test_the_built_in_model_answers_through_the_built_in_tools(tmp_path: Path) -> None:
    agent = load_agent(written(tmp_path, "name: helper\ntools: [calculator]\n"))
    result = finished(agent, "What is 12 times 7?")
    assert result.status == "finished" and "84" in result.answer
    (call,) = result.calls
    assert (call.name, call.arguments, call.result.text) == ("calculator", '{"expression": "12 * 7"}', "84")
    store = EventStore()
    assert [row.agent for row in asyncio.run(store.runs("local"))] == ["helper"]
    store.close()


def test_everything_it_says_reaches_the_agent(tmp_path: Path) -> None:
    text = """
name: all
model: {url: "http://localhost:9/v1", name: big, api_key: "${env:A_KEY}", takes: [image], body: {top_k: 3}}
instructions: Be brief.
tools:
  - calculator
  - {name: date, needs_approval: true}
  - memory
limits: {steps: 3, tokens: 1000, seconds: null, cost: 0.5}
prices: {input: 1, output: 2}
sampling: {temperature: 0.5, max_tokens: 9, stop: ["x"]}
thinking: true
parallel: false
planning: true
reflections: 1
output: {type: object, properties: {a: {type: integer}}, required: [a]}
memory: {most_chars: 100, keep: 1}
"""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match="A_KEY"):
        load_agent(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_KEY", "sk-secret-key")
        agent = load_agent(path)
    assert isinstance(agent.model, RemoteModel) and agent.model.name == "big" and agent.model.takes == {"image"}
    assert agent.model._key == "sk-secret-key" and "sk-secret" not in repr(agent)
    assert (agent.limits.steps, agent.limits.seconds, agent.limits.corrections) == (3, None, 4)
    assert agent.sampling is not None and agent.sampling.stop == ("x",) and agent.memory is not None
    assert agent.thinking and agent.planning and not agent.parallel and agent.reflections == 1
    tools = {tool.name: tool for tool in asyncio.run(agent.loop.executor.tools())}
    assert set(tools) == {"calculator", "date", "memory_set", "memory_get"}
    assert tools["date"].needs_approval is True and tools["calculator"].needs_approval is False
    asyncio.run(agent.aclose())


def test_tools_of_ones_own_are_found_beside_the_file(tmp_path: Path) -> None:
    written(
        tmp_path,
        "from deepseek.agent import ToolRegistry, Tool\n"
        "registry = ToolRegistry()\n"
        "@registry.register('double')\n"
        "def double(x: int) -> int:\n    'Double.'\n    return 2 * x\n"
        "def halve(x: int) -> float:\n    'Halve.'\n    return x / 2\n"
        "number = 3\n",
        "own_agent_tools.py",
    )
    text = "tools: [{python: 'own_agent_tools:registry', needs_approval: true}, {python: 'own_agent_tools:halve'}]"
    path_before = list(sys.path)
    model = ScriptedModel(calls(("double", {"x": 2}), ("halve", {"x": 3})), "Done.")
    result = finished(load_agent(written(tmp_path, text), model=model))
    assert result.status == "suspended" and [request.tool for request in result.approvals] == ["double"]
    assert sys.path == path_before
    for wrong in ("own_agent_tools:number", "own_agent_tools:nothing", "no_such_module_at_all:x", "own_agent_tools"):
        with pytest.raises(ConfigError, match=r"tools\.0"):
            load_agent(written(tmp_path, f"tools: [{{python: '{wrong}'}}]"), model=model)


def test_another_agent_is_a_tool(tmp_path: Path) -> None:
    written(tmp_path, "name: clerk\ninstructions: Do errands.\ntools: [calculator]\n", "clerk.yaml")
    model = ScriptedModel(calls(("errand", {"task": "x"})), "Done.")
    agent = load_agent(written(tmp_path, "tools: [{agent: clerk.yaml, name: errand}]\n"), model=model)
    tools = asyncio.run(agent.loop.executor.tools())
    assert [(tool.name, tool.description) for tool in tools] == [("errand", "Do errands.")]
    asyncio.run(agent.aclose())
    written(tmp_path, "tools: [{agent: b.yaml}]\nmodel: {url: 'http://x', name: x}\n", "a.yaml")
    written(tmp_path, "tools: [{agent: a.yaml}]\nmodel: {url: 'http://x', name: x}\n", "b.yaml")
    with pytest.raises(ConfigError, match="circle"):
        load_agent(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("toools: [calculator]", "toools"),
        ("limits: {stops: 3}", "limits.stops"),
        ("limits: {steps: many}", "limits.steps"),
        ("reflections: 99", "reflections"),
        ("- a list", "mapping"),
        ("a: [", "YAML"),
        ("tools: [calculater]", "calculator"),
        ("tools: [calculator, calculator]", "there already"),
        ("tools: [memory, memory_get]", "there already"),
        ("tools: [{mcp: 3}]", "tools"),
        ("instructions: ${env:NO_SUCH_VARIABLE_HERE}", "NO_SUCH_VARIABLE_HERE"),
        ("limits: {steps: 0}", "limits.steps"),
        ("limits: {cost: 3}", "prices"),
        ("output: {type: nothing}", "output"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_agent(written(tmp_path, text), model=ScriptedModel())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        AgentConfig.from_file(tmp_path / "nowhere.yaml")


def test_conversations_of_a_configured_agent_are_remembered(tmp_path: Path) -> None:
    path = written(tmp_path, "tools: []\n")
    assert finished(load_agent(path, model=ScriptedModel("A.")), "Hi", conversation="c").answer == "A."
    model = ScriptedModel("never", "B.")
    assert finished(load_agent(path, model=model), "And?", conversation="c").answer == "B."
    assert [message.text for message in model.asked[0].messages] == ["Hi", "A.", "And?"]


def test_tools_of_an_mcp_server_are_called_and_the_server_ends_with_the_agent(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    server = [sys.executable, str(Path(__file__).parent / "mcp" / "official_server.py"), "stdio"]
    path = written(tmp_path, json.dumps({"tools": ["calculator", {"mcp": server}]}))
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2}), ("calculator", {"expression": "1 + 2"})), "Both 3.")
    agent = load_agent(path, model=model)
    result = finished(agent)
    assert [call.result.text for call in result.calls] == ["3", "3"] and len(agent.owned) == 1
    asking = written(tmp_path, json.dumps({"tools": [{"mcp": server, "needs_approval": True}]}))
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2})), "3.")
    assert finished(load_agent(asking, model=model)).status == "suspended"


def test_the_shipped_example_answers_with_its_tools() -> None:
    agent = load_agent(Path(__file__).parents[2] / "examples" / "agent.yaml")
    result = finished(agent, "What is 48 * 17?")
    assert result.status == "finished" and "816" in result.answer
