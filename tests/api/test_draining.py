"""Ready when the model answers; at the signal no new work, running work ends, the rest is cancelled and told so."""

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from api_support import BROKEN, CONTEXT, MODELS, ByteCodec, HeldEngine, RefusingEngine, quick, state_of

from deepseek.api import ServerState, serve, serving
from deepseek.api.server import bind
from deepseek.core.engine import Request
from deepseek.core.errors import ConfigError, EngineError
from deepseek.engine.fake import FakeEngine

BODY = {"model": "deepseek-7b", "prompt": "a"}
CHAT = {"model": "deepseek-7b", "messages": [{"role": "user", "content": "a"}]}


def test_ready_and_alive_once_the_model_has_answered(url: str) -> None:
    assert requests.get(f"{url}/readyz").json() == {"status": "ready"}
    assert requests.get(f"{url}/healthz").json() == {"status": "alive"}


def test_a_model_that_does_not_answer_stops_the_start_with_one_clear_error_and_closes_the_engine() -> None:
    engine = quick("ab", fail_at=0)
    with pytest.raises(EngineError, match="did not answer"), serving(state_of(engine)):
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.generate(Request("x", (1,)))


def test_an_engine_fault_takes_readiness_away_until_the_model_answers_again() -> None:
    class Flaky(RefusingEngine):
        answers_probes = True

        def generate(self, request: Request):  # type: ignore[no-untyped-def]
            if request.id.startswith("probe-") and not self.answers_probes:
                raise self.error
            return super().generate(request)

    engine = Flaky(BROKEN)
    with serving(state_of(engine)) as server:
        engine.answers_probes = False
        assert requests.post(f"{server.url}/v1/generate", json=BODY).status_code == 500
        not_ready = requests.get(f"{server.url}/readyz")
        assert not_ready.status_code == 503
        assert not_ready.json()["type"].endswith("not-ready")
        assert requests.get(f"{server.url}/healthz").status_code == 200
        engine.answers_probes = True
        assert requests.get(f"{server.url}/readyz").status_code == 200


def test_while_draining_new_work_is_refused_and_running_work_ends_whole() -> None:
    engine = HeldEngine(["Hel", "lo"])
    with serving(state_of(engine), grace_s=30.0) as server:
        running = requests.post(f"{server.url}/v1/generate", json=BODY | {"stream": True}, stream=True)
        server.begin_drain()
        for refused in (
            requests.get(f"{server.url}/readyz"),
            requests.post(f"{server.url}/v1/generate", json=BODY),
            requests.post(f"{server.url}/v1/chat/completions", json=CHAT),
        ):
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:deepseek:problem:draining"
            assert int(refused.headers["retry-after"]) >= 1
        assert requests.get(f"{server.url}/healthz").status_code == 200
        engine.release("stop")
        assert '"finish_reason":"stop"' in running.content.decode()
    assert engine.closed.is_set()


def last_frame(response: requests.Response) -> str:
    return [frame for frame in response.text.split("\n\n") if frame][-1]


def test_what_outlasts_the_grace_period_is_cancelled_with_a_last_frame() -> None:
    engine = HeldEngine(["Hel"])
    with serving(state_of(engine), grace_s=0.0) as server:
        running = requests.post(f"{server.url}/v1/generate", json=BODY | {"stream": True}, stream=True)
        server.begin_drain()
        last = json.loads(last_frame(running).removeprefix("data: "))
    assert last["finish_reason"] == "cancelled"
    assert last["usage"]["completion_tokens"] == 1


def test_a_chat_stream_cut_off_by_the_end_of_the_grace_period_says_so() -> None:
    engine = HeldEngine(["Hel"])
    with serving(state_of(engine), grace_s=0.0) as server:
        running = requests.post(f"{server.url}/v1/chat/completions", json=CHAT | {"stream": True}, stream=True)
        server.begin_drain()
        last = last_frame(running)
    assert last.startswith("event: error\n")
    assert json.loads(last.partition("data: ")[2])["error"]["code"] == "draining"


def test_an_unstreamed_answer_cut_off_is_still_answered() -> None:
    engine = HeldEngine(["Hel"])
    answers: list[requests.Response] = []
    with serving(state_of(engine), grace_s=0.0) as server:
        asking = threading.Thread(
            target=lambda: answers.append(requests.post(f"{server.url}/v1/generate", json=BODY)), daemon=True
        )
        asking.start()
        assert engine.started.wait(5)
        server.begin_drain()
        asking.join(10)
    assert answers[0].json()["finish_reason"] == "cancelled"


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            serve(ServerState(FakeEngine(), ByteCodec(), MODELS, CONTEXT), port=port)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "Address already in use" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("not a host", 0)])
def test_an_impossible_address_is_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        bind(host, port)


SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from api_support import quick, state_of
from deepseek.api import serve
serve(state_of(quick("x" * 400)), port=0, on_ready=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_signal_lets_a_running_stream_end_and_the_process_leaves(sent: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with requests.post(
            f"{url}/v1/generate", json=BODY | {"max_tokens": 400, "stream": True}, stream=True
        ) as running:
            lines = running.iter_lines()
            next(lines)
            process.send_signal(sent)
            rest = [line for line in lines if line]
        _, errors = process.communicate(timeout=20)
    assert json.loads(rest[-1].removeprefix(b"data: "))["usage"]["completion_tokens"] == 400
    assert "Traceback" not in errors
    # uvicorn gives SIGTERM back after the drain, so a supervisor sees a process that ended by it.
    assert process.returncode in (0, -sent)


def test_a_sleeping_engine_is_alive_but_not_ready() -> None:
    engine = quick()
    with serving(state_of(engine)) as server:
        engine._awake.clear()
        asleep = requests.get(f"{server.url}/readyz", timeout=30)
        assert asleep.status_code == 503 and asleep.json()["type"].endswith("asleep")
        assert "retry-after" in asleep.headers
        assert requests.get(f"{server.url}/healthz", timeout=30).status_code == 200
        assert "deepseek_asleep 1.0" in requests.get(f"{server.url}/metrics", timeout=30).text
        engine._awake.set()
        assert requests.get(f"{server.url}/readyz", timeout=30).json() == {"status": "ready"}
