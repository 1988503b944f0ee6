"""An agent's turns are requests like any other: in the ledger, within budgets, read by plugins, and waited with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metering_support import Books, ByHeader, budget, opened
from plugins_support import managed, registered_here
from served_agents import AgentEngine, agent_state, client_of, events_of

from deepseek.plugins.errors import PluginRefusal
from deepseek.plugins.hooks import PluginContext

RUNS = "/v1/agents/helper/runs"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(str(tmp_path / "control.db")) as found:
        yield found


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with registered_here():
        yield


def test_every_turn_is_in_the_ledger_under_the_key_that_asked(tmp_path: Path, books: Books) -> None:
    state = agent_state(tmp_path / "a", identifier=ByHeader(), meter=books.meter([]))
    with client_of(state, **{"x-caller": "acme/k1"}) as client:
        run = client.post(RUNS, json={"input": 'call add {"a": 1, "b": 2}'}).json()
    found = books.ledger
    assert len(found) == 2
    assert {(row.tenant, row.key_id, row.route) for row in found} == {("acme", "k1", RUNS)}
    assert sum(row.completion_tokens for row in found) == run["usage"]["completion_tokens"]
    assert sum(row.prompt_tokens for row in found) == run["usage"]["prompt_tokens"]


def test_a_budget_that_is_used_up_refuses_the_run_and_stops_one_at_its_token(tmp_path: Path, books: Books) -> None:
    state = agent_state(tmp_path / "a", identifier=ByHeader(), meter=books.meter([budget(tokens=150)]))
    with client_of(state, **{"x-caller": "acme/k1"}) as client:
        statuses = []
        for _ in range(6):
            answer = client.post(RUNS, json={"input": "hello"})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.json()["type"].endswith("budget-exhausted")
        assert statuses[0] == 200 and statuses[-1] == 429
    assert books.tokens <= 150


def test_a_plugin_may_refuse_what_is_asked_before_anything_is_done(tmp_path: Path) -> None:
    class Strict:
        def pre_process(self, prompt: str, context: PluginContext) -> None:
            if "forbidden" in prompt:
                raise PluginRefusal("no such questions")

    engine = AgentEngine()
    state = agent_state(tmp_path, engine, plugins=managed([Strict]))
    with client_of(state) as client:
        answer = client.post(RUNS, json={"input": "forbidden"})
        assert answer.status_code == 403 and answer.json()["type"].endswith("refused-by-plugin")
        assert client.post(RUNS, json={"input": "hello"}).json()["answer"] == "answer: hello"
    assert len(engine.requests) == 1


def test_a_plugin_reads_each_answer_and_the_tools_results(tmp_path: Path) -> None:
    class Loud:
        def post_process(self, text: str) -> str:
            return text.upper()

        def after_tool(self, name: str, arguments: Any, result: str) -> str:
            return f"{name} gave {result}"

    state = agent_state(tmp_path, plugins=managed([Loud]))
    with client_of(state) as client:
        answer = client.post(RUNS, json={"input": 'call add {"a": 1, "b": 2}', "stream": True})
        events = events_of(answer.text)
        assert events[-1][2]["answer"] == "RESULT: ADD GAVE 3"
        assert "".join(data["text"] for _, kind, data in events if kind == "text") == "RESULT: ADD GAVE 3"
