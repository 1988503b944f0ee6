"""`deepseek agent`, with a scripted model behind a real address, so that what is configured is what runs."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]

TOOLS = """
from deepseek.agent import ToolRegistry

registry = ToolRegistry()


@registry.register("add")
def add(a: int, b: int) -> int:
    return a + b


@registry.register("send", needs_approval=True)
def send(text: str) -> str:
    return "sent " + text
"""


class Scripted(BaseHTTPRequestHandler):
    """An OpenAI-compatible model that answers by what it is asked last."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        last = body["messages"][-1]
        self.server.asked.append(body)  # type: ignore[attr-defined]
        text = last["content"] if isinstance(last["content"], str) else last["content"][-1]["text"]
        if last["role"] == "user" and text.startswith("call "):
            _, name, arguments = text.split(" ", 2)
            call = {"index": 0, "id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
            deltas, reason = [{"tool_calls": [call]}], "tool_calls"
        elif last["role"] == "user" and text == "remember":
            said = [message["content"] for message in body["messages"] if message["role"] == "user"]
            deltas, reason = [{"content": f"{len(said)} said"}], "stop"
        else:
            deltas, reason = [{"content": f"answer: {text}"}], "stop"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for delta in deltas:
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        whole = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", **chunk}
        self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def model() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path, model: ThreadingHTTPServer) -> Path:
    (tmp_path / "agent_command_tools.py").write_text(TOOLS)
    file = tmp_path / "config.yaml"
    written = {
        "name": "tested",
        "model": {"url": f"http://127.0.0.1:{model.server_port}/v1", "name": "m"},
        "tools": [{"python": "agent_command_tools:registry"}],
    }
    file.write_text(yaml.safe_dump(written))
    return file


def test_json_is_one_object_of_answer_calls_steps_and_tokens(run: Run, config: Path) -> None:
    outcome = run("agent", "run", config, 'call add {"a": 1, "b": 2}', "--json")
    assert outcome.code == 0
    (line,) = outcome.out.splitlines()
    written = json.loads(line)
    assert written["answer"] == "answer: 3"
    assert written["calls"] == [{"name": "add", "arguments": {"a": 1, "b": 2}, "result": "3"}]
    assert (written["steps"], written["tokens"], written["status"]) == (2, 30, "finished")
    assert outcome.err == ""


def test_the_answer_alone_goes_to_standard_output(run: Run, config: Path) -> None:
    outcome = run("agent", "run", config, 'call add {"a": 20, "b": 22}')
    assert outcome.out == "answer: 42\n"
    assert 'add({"a":20,"b":22})' in outcome.err and "add: 42" in outcome.err


def test_the_question_can_come_from_standard_input(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert run("agent", "run", config, "-").out == "answer: hello\n"


def test_a_file_that_belongs_to_the_question_is_read_to_the_model(
    run: Run, config: Path, tmp_path: Path, model: ThreadingHTTPServer
) -> None:
    (tmp_path / "notes.md").write_text("# Notes\nTea at five.\n")
    outcome = run("agent", "run", config, "When is tea?", "--attach", tmp_path / "notes.md")
    assert outcome.code == 0 and "notes.md: text/markdown" in outcome.err
    (asked,) = model.asked  # type: ignore[attr-defined]
    assert "Tea at five." in json.dumps(asked["messages"])


def test_a_run_that_needs_a_person_waits_and_goes_on_when_it_is_allowed(run: Run, config: Path) -> None:
    outcome = run("agent", "run", config, 'call send {"text": "hi"}', "--json")
    written = json.loads(outcome.out)
    assert (outcome.code, written["status"], written["calls"][0]["result"]) == (3, "suspended", None)
    assert [(one["tool"], one["arguments"]) for one in written["approvals"]] == [("send", {"text": "hi"})]
    resumed = run("agent", "resume", config, written["run_id"], "--yes", "--json")
    assert json.loads(resumed.out)["answer"] == "answer: sent hi"
    again = run("agent", "resume", config, written["run_id"], "--yes")
    assert again.code == 2 and "no such run waits" in again.err


def test_everything_can_be_allowed_beforehand(run: Run, config: Path) -> None:
    assert run("agent", "run", config, 'call send {"text": "hi"}', "--yes").out == "answer: sent hi\n"


def test_a_limit_that_stops_it_is_told_by_the_exit_code(run: Run, config: Path) -> None:
    config.write_text(config.read_text() + "limits: {steps: 1}\n")
    outcome = run("agent", "run", config, 'call add {"a": 1, "b": 2}')
    assert outcome.code == 1 and "stopped by a limit: steps" in outcome.err


def test_what_is_said_in_a_chat_is_remembered_until_it_is_reset(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["one", "remember", "/reset", "remember", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert run("agent", "chat", config).out.splitlines() == ["answer: one", "2 said", "1 said"]


def test_a_conversation_is_taken_up_again_by_its_name_and_by_its_tenant_alone(run: Run, config: Path) -> None:
    for tenant, said in (("acme", "1 said"), ("acme", "2 said"), ("other", "1 said")):
        outcome = run("agent", "run", config, "remember", "--conversation", "c", "--tenant", tenant)
        assert outcome.out == f"{said}\n"


def test_a_mistake_in_the_configuration_is_one_line(refused: Callable[..., str], config: Path) -> None:
    config.write_text("nonsense: 1\n")
    assert "nonsense" in refused("agent", "run", config, "hello")
    assert "cannot be read" in refused("agent", "run", config.with_name("none.yaml"), "hello")
