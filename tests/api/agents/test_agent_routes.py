"""Agents over the API: asked and answered, streamed, followed again, gone on with, cancelled, and each tenant's own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from identity_support import SECRET, Keys, keys_beside
from served_agents import AgentEngine, agent_state, agents_in, answering, client_of, events_of, until

from deepseek.api.admin import KeyAdmin
from deepseek.api.identity.identifier import KeyIdentifier
from deepseek.api.tiers import Tiers

RUNS = "/v1/agents/helper/runs"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with client_of(agent_state(tmp_path)) as found:
        yield found


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with keys_beside(tmp_path) as found:
        yield found


def ask(client: httpx.Client, text: str, **fields: Any) -> dict[str, Any]:
    answer = client.post(RUNS, json={"input": text, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_agents_are_listed_with_their_tools(client: httpx.Client) -> None:
    (agent,) = client.get("/v1/agents").json()["data"]
    assert (agent["id"], agent["model"]) == ("helper", "deepseek-7b")
    assert agent["tools"] == ["add", "whose", "send", "hang", "crash"]


def test_a_run_is_answered_with_its_calls_its_steps_and_its_tokens(client: httpx.Client) -> None:
    run = ask(client, 'call add {"a": 1, "b": 2}')
    assert (run["status"], run["answer"], run["steps"]) == ("finished", "result: 3", 2)
    (call,) = run["calls"]
    assert (call["name"], call["arguments"], call["status"], call["result"]) == ("add", {"a": 1, "b": 2}, "ok", "3")
    assert run["usage"]["total_tokens"] == run["usage"]["prompt_tokens"] + run["usage"]["completion_tokens"] > 0
    assert client.get(f"{RUNS}/{run['id']}").json() == run


def test_a_run_is_made_in_its_tenants_name(client: httpx.Client) -> None:
    assert ask(client, "call whose {}")["answer"] == "result: local"


def test_a_streamed_run_is_its_events_in_order_then_the_run(client: httpx.Client) -> None:
    answer = client.post(RUNS, json={"input": 'call add {"a": 1, "b": 2}', "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    numbered = [int(number) for number, _, _ in events if number is not None]
    assert numbered == list(range(1, len(numbered) + 1))
    kinds = [kind for number, kind, _ in events if number is not None]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished"
    assert kinds.index("tool_started") < kinds.index("tool_finished")
    said = "".join(data["text"] for _, kind, data in events if kind == "text")
    assert said == "result: 3"
    assert events[-1][1] == "run" and events[-1][2]["answer"] == "result: 3"


def test_events_show_nothing_of_the_operators_instructions_or_of_token_ids(tmp_path: Path) -> None:
    agents = agents_in(tmp_path, instructions="a secret of the operator")
    with client_of(agent_state(tmp_path, agents=agents)) as client:
        text = client.post(RUNS, json={"input": "hello", "stream": True}).text
        assert "run_finished" in text
        assert "a secret of the operator" not in text and "token_ids" not in text


def test_events_are_read_again_behind_the_last_that_came(client: httpx.Client) -> None:
    run = ask(client, 'call add {"a": 1, "b": 2}')
    whole = events_of(client.get(f"{RUNS}/{run['id']}/events").text)
    for after in (0, 1, 5, run["last_event"], 10_000):
        by_header = events_of(client.get(f"{RUNS}/{run['id']}/events", headers={"last-event-id": str(after)}).text)
        by_query = events_of(client.get(f"{RUNS}/{run['id']}/events", params={"after": after}).text)
        expected = [event for event in whole if event[0] is None or int(event[0]) > after]
        assert by_header == by_query == expected


def test_events_of_a_run_that_goes_on_come_as_they_happen_and_once(client: httpx.Client) -> None:
    run = ask(client, "call hang {}", background=True)
    assert run["status"] == "running"
    seen: list[str] = []
    with client.stream("GET", f"{RUNS}/{run['id']}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen.append(line[4:])
            if line == "event: tool_started":
                assert client.post(f"{RUNS}/{run['id']}/cancel").json()["status"] == "cancelled"
    assert seen == [str(number) for number in range(1, len(seen) + 1)]
    assert len(seen) == client.get(f"{RUNS}/{run['id']}").json()["last_event"]


def test_a_background_run_goes_on_without_its_client(client: httpx.Client) -> None:
    run = ask(client, 'call add {"a": 2, "b": 2}', background=True)
    until(lambda: client.get(f"{RUNS}/{run['id']}").json()["status"] == "finished")
    assert client.get(f"{RUNS}/{run['id']}").json()["answer"] == "result: 4"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_run(tmp_path: Path, stream: bool) -> None:
    state = agent_state(tmp_path)
    with client_of(state) as client:
        with (
            pytest.raises(httpx.ReadTimeout),
            client.stream("POST", RUNS, json={"input": "call hang {}", "stream": stream}, timeout=1.0) as answer,
        ):
            for _ in answer.iter_bytes():
                pass
        until(lambda: not state.runs._live)


def test_a_run_that_waits_for_a_person_goes_on_with_the_answer_and_runs_nothing_twice(client: httpx.Client) -> None:
    run = ask(client, 'call send {"text": "hi"}')
    assert (run["status"], run["calls"][0]["status"]) == ("suspended", "suspended")
    (approval,) = run["approvals"]
    assert (approval["tool"], approval["arguments"]) == ("send", {"text": "hi"})
    resume = f"{RUNS}/{run['id']}/resume"
    wrong = client.post(resume, json={"approvals": [{"id": "approval_x", "approved": True}]})
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "approvals.0.id"
    answer = {"id": approval["id"], "approved": True}
    resumed = client.post(resume, json={"approvals": [answer]}).json()
    assert (resumed["status"], resumed["answer"], resumed["approvals"]) == ("finished", "result: sent hi", [])
    again = client.post(resume, json={"approvals": [answer]})
    assert again.status_code == 409 and again.json()["type"].endswith("not-resumable")


def test_a_person_may_say_no_or_other_arguments(client: httpx.Client) -> None:
    refused = ask(client, 'call send {"text": "hi"}')
    (approval,) = refused["approvals"]
    no = {"id": approval["id"], "approved": False, "reason": "not today"}
    ended = client.post(f"{RUNS}/{refused['id']}/resume", json={"approvals": [no]}).json()
    assert ended["calls"][0]["status"] == "refused" and "not today" in ended["answer"]
    changed = ask(client, 'call send {"text": "hi"}')
    yes = {"id": changed["approvals"][0]["id"], "approved": True, "arguments": {"text": "bye"}}
    ended = client.post(f"{RUNS}/{changed['id']}/resume", json={"approvals": [yes]}).json()
    assert ended["answer"] == "result: sent bye"


def test_a_run_that_waits_can_be_cancelled_and_then_not_gone_on_with(client: httpx.Client) -> None:
    run = ask(client, 'call send {"text": "hi"}')
    assert client.post(f"{RUNS}/{run['id']}/cancel").json()["status"] == "cancelled"
    assert client.post(f"{RUNS}/{run['id']}/cancel").status_code == 409
    answer = {"id": run["approvals"][0]["id"], "approved": True}
    assert client.post(f"{RUNS}/{run['id']}/resume", json={"approvals": [answer]}).status_code == 409


def test_a_conversation_is_remembered_for_its_name(client: httpx.Client) -> None:
    ask(client, "one", conversation="c")
    run = ask(client, "two", conversation="c")
    events = events_of(client.get(f"{RUNS}/{run['id']}/events").text)
    said = [data["message"]["parts"][0]["text"] for _, kind, data in events if kind == "said"]
    assert said == ["one", "answer: one", "two"]


def test_limits_are_lowered_and_never_raised(tmp_path: Path) -> None:
    agents = agents_in(tmp_path, limits={"steps": 2})
    with client_of(agent_state(tmp_path, agents=agents)) as client:
        run = ask(client, 'call add {"a": 1, "b": 2}', limits={"steps": 1})
        assert (run["status"], run["limit"], run["steps"]) == ("limited", "steps", 1)
        run = ask(client, 'call add {"a": 1, "b": 2}', limits={"steps": 100})
        assert (run["status"], run["steps"]) == ("finished", 2)


def test_a_document_that_is_handed_over_is_read_to_the_model(client: httpx.Client) -> None:
    data = base64.b64encode(b"Tea is at five.").decode()
    run = ask(client, "When is tea?", attachments=[{"data": data, "name": "notes.txt"}])
    assert "Tea is at five." in run["answer"]
    for wrong in ("%%%", base64.b64encode(bytes(range(256))).decode()):
        answer = client.post(RUNS, json={"input": "What is it?", "attachments": [{"data": wrong}]})
        assert answer.status_code == 422, answer.text


def test_a_tool_that_fails_is_part_of_the_run(client: httpx.Client) -> None:
    run = ask(client, "call crash {}")
    assert (run["status"], run["calls"][0]["status"]) == ("finished", "error")


def test_what_there_is_not_is_404(client: httpx.Client) -> None:
    run = ask(client, "hello")
    for path in (
        "/v1/agents/nobody/runs/x",
        f"{RUNS}/run_x",
        f"{RUNS}/run_x/events",
        f"/v1/agents/nobody/runs/{run['id']}",
    ):
        assert client.get(path).status_code == 404, path
    for path in ("/v1/agents/nobody/runs", f"{RUNS}/run_x/cancel", f"{RUNS}/run_x/resume"):
        body = {"approvals": [{"id": "a", "approved": True}]} if path.endswith("resume") else {"input": "hello"}
        assert client.post(path, json=body).status_code == 404, path


@pytest.mark.parametrize(
    "body",
    [{}, {"input": ""}, {"input": 3}, {"input": "a", "unknown": 1}, {"input": "a", "limits": {"steps": 0}}, []],
)
def test_a_body_that_is_wrong_is_refused_by_field(client: httpx.Client, body: Any) -> None:
    answer = client.post(RUNS, json=body)
    assert answer.status_code == 422 and answer.json()["errors"]


@pytest.mark.parametrize("said", ["-1", "x", "9" * 30, "1.5"])
def test_a_last_event_that_is_no_number_is_refused(client: httpx.Client, said: str) -> None:
    run = ask(client, "hello")
    assert client.get(f"{RUNS}/{run['id']}/events", headers={"last-event-id": said}).status_code == 422


def test_a_conversation_too_long_for_the_model_is_refused_as_elsewhere(client: httpx.Client) -> None:
    answer = client.post(RUNS, json={"input": "x" * 5000})
    assert answer.status_code == 413 and answer.json()["type"].endswith("prompt-too-long")


def test_what_fails_inside_is_not_shown(tmp_path: Path) -> None:
    def broken(conversation: str) -> str:
        if "<user>" in conversation:  # not when the server asks for a first token, at its start
            raise RuntimeError("a secret of the inside")
        return "."

    with client_of(agent_state(tmp_path, AgentEngine(broken))) as client:
        answer = client.post(RUNS, json={"input": "hello", "stream": True})
        assert "a secret of the inside" not in answer.text
        assert events_of(answer.text)[-1][2]["status"] == "failed"


def test_turns_reach_the_engine_in_the_tenants_name_with_its_salt(tmp_path: Path) -> None:
    engine = AgentEngine()
    state = agent_state(tmp_path, engine)
    with client_of(state) as client:
        ask(client, 'call add {"a": 1, "b": 2}')
    turns = [request for request in engine.requests if request.id.startswith("chat-")]
    assert len(turns) == 2
    assert {(turn.tenant, turn.cache_salt) for turn in turns} == {("local", state.salts.of("local"))}


def test_tenants_never_see_each_others_runs(tmp_path: Path, keys: Keys) -> None:
    _, acme = keys.make("acme", "professional")
    _, other = keys.make("other", "professional")
    keys.ring.load()
    identifier = KeyIdentifier(keys.ring, None, open_until_keyed=False)
    admin = KeyAdmin(keys.database, keys.writer, keys.ring, SECRET, tuple(Tiers().by_name), keys.clock)
    state = agent_state(tmp_path / "agents", identifier=identifier, admin=admin)
    with client_of(state) as client:
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in (acme, other))
        run = client.post(RUNS, json={"input": 'call send {"text": "hi"}', "conversation": "c"}, headers=mine).json()
        assert run["status"] == "suspended"
        answer = {"approvals": [{"id": run["approvals"][0]["id"], "approved": True}]}
        for method, path, body in (
            ("GET", f"{RUNS}/{run['id']}", None),
            ("GET", f"{RUNS}/{run['id']}/events", None),
            ("POST", f"{RUNS}/{run['id']}/cancel", None),
            ("POST", f"{RUNS}/{run['id']}/resume", answer),
        ):
            assert client.request(method, path, json=body, headers=theirs).status_code == 404, path
            assert client.request(method, path, json=body).status_code == 401, path
        whose = client.post(RUNS, json={"input": "call whose {}", "conversation": "c"}, headers=theirs).json()
        assert whose["answer"] == "result: other"
        assert (
            client.post(f"{RUNS}/{run['id']}/resume", json=answer, headers=mine).json()["answer"] == "result: sent hi"
        )


def test_a_key_that_is_revoked_ends_the_run_at_its_next_turn(tmp_path: Path, keys: Keys) -> None:
    _, key = keys.make("acme", "professional")
    keys.ring.load()
    identifier = KeyIdentifier(keys.ring, None, open_until_keyed=False)

    def reply(conversation: str) -> str:
        # While the first turn is made, the key is revoked.
        identifier.recall = lambda written: None  # type: ignore[method-assign]
        return answering(conversation)

    engine = AgentEngine(reply)
    headers = {"authorization": f"Bearer {key}"}
    with client_of(agent_state(tmp_path / "agents", engine, identifier=identifier), **headers) as client:
        answer = client.post(RUNS, json={"input": 'call add {"a": 1, "b": 2}'})
        assert answer.status_code == 401 and "not good any more" in answer.json()["detail"]
    assert len(engine.requests) == 1


def test_only_so_many_runs_of_a_tenant_go_on_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.agents.runs.MAX_RUNS_OF_TENANT", 2)
    with client_of(agent_state(tmp_path)) as client:
        for _ in range(2):
            ask(client, "call hang {}", background=True)
        answer = client.post(RUNS, json={"input": "hello"})
        assert answer.status_code == 429 and "retry-after" in answer.headers


def test_a_server_that_stops_ends_its_runs_and_says_so_afterwards(tmp_path: Path) -> None:
    with client_of(agent_state(tmp_path)) as client:
        run = ask(client, "call hang {}", background=True)
    with client_of(agent_state(tmp_path)) as client:
        found = client.get(f"{RUNS}/{run['id']}").json()
        assert found["status"] in ("cancelled", "failed")
        assert json.dumps(found)


def test_a_run_that_waited_goes_on_after_a_restart(tmp_path: Path) -> None:
    with client_of(agent_state(tmp_path)) as client:
        run = ask(client, 'call send {"text": "hi"}')
    with client_of(agent_state(tmp_path)) as client:
        answer = {"approvals": [{"id": run["approvals"][0]["id"], "approved": True}]}
        assert client.post(f"{RUNS}/{run['id']}/resume", json=answer).json()["answer"] == "result: sent hi"
