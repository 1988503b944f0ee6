"""Budgets and the ledger on OpenAI's other routes, in batches and over the WebSocket: every way in is charged alike."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from kept_support import CHAT, ENDED, line, lines
from metering_support import Books, budget, caller, opened
from websockets.sync.client import connect

from deepseek.api import serving
from deepseek.api.identity.caller import Caller
from deepseek.api.kept.shelf import Shelf
from deepseek.engine.fake import FakeEngine, babble

WHO = {"x-caller": "acme/k1"}
MODEL = "deepseek-7b"
LENGTH = 100_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


def served(books: Books, directory: Path, budgets: Any = ()) -> Any:
    engine = FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0, max_model_len=LENGTH)
    state = books.state(engine, books.meter(list(budgets)))
    state.max_model_len = LENGTH
    state.shelf = Shelf(books.database, books.writer, directory / "files")
    identify = state.identifier

    class Recalling:
        async def identify(self, headers: Any) -> Caller:
            return await identify.identify(headers)

        def recall(self, written: Any) -> Caller | None:
            return caller(written.tenant, written.key_id)

    state.identifier = Recalling()
    return serving(state, grace_s=1.0)


def post(url: str, path: str, body: Any) -> requests.Response:
    return requests.post(f"{url}{path}", json={"model": MODEL} | body, headers=WHO, timeout=30)


def test_every_route_and_every_prompt_has_its_line_in_the_ledger(books: Books, tmp_path: Path) -> None:
    with served(books, tmp_path) as server:
        post(server.url, "/v1/completions", {"prompt": ["aaa", "bb"], "max_tokens": 5}).raise_for_status()
        post(server.url, "/v1/completions", {"prompt": "aaaa", "max_tokens": 0, "echo": True}).raise_for_status()
        post(server.url, "/v1/embeddings", {"input": ["aaa", "bb"]}).raise_for_status()
        post(server.url, "/v1/responses", {"input": "a", "max_output_tokens": 7}).raise_for_status()
    counted = sorted((row.route, row.prompt_tokens, row.completion_tokens) for row in books.ledger)
    assert counted == [
        ("/v1/completions", 2, 5),
        ("/v1/completions", 3, 5),
        ("/v1/completions", 4, 0),
        ("/v1/embeddings", 2, 0),
        ("/v1/embeddings", 3, 0),
        ("/v1/responses", len("<user>a<assistant>"), 7),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_stop_at_the_budget_they_share(books: Books, tmp_path: Path, stream: bool) -> None:
    with served(books, tmp_path, [budget(tokens=2000)]) as server:
        body = {"prompt": ["a" * 10, "b" * 10], "max_tokens": 4000, "stream": stream}
        answer = post(server.url, "/v1/completions", body)
    if stream:
        frames = [json.loads(each[6:]) for each in answer.text.split("\n\n") if each.startswith("data: {")]
        choices = [choice for frame in frames for choice in frame["choices"] if choice["finish_reason"]]
    else:
        choices = answer.json()["choices"]
    assert [(choice["finish_reason"], choice["limited_by"]) for choice in choices] == [("length", "budget:key/day")] * 2
    assert books.tokens == 2000


def test_a_response_says_what_limited_it(books: Books, tmp_path: Path) -> None:
    with served(books, tmp_path, [budget(tokens=100)]) as server:
        found = post(server.url, "/v1/responses", {"input": "a", "max_output_tokens": 4000}).json()
    assert (found["status"], found["limited_by"]) == ("incomplete", "budget:key/day") and books.tokens == 100


def test_embeddings_beyond_the_budget_are_refused(books: Books, tmp_path: Path) -> None:
    with served(books, tmp_path, [budget(tokens=5)]) as server:
        assert post(server.url, "/v1/embeddings", {"input": "abcd"}).status_code == 200
        refused = post(server.url, "/v1/embeddings", {"input": "abcd"})
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "insufficient_quota"
    assert books.tokens == 4


def test_a_batchs_lines_are_charged_to_its_caller_and_stop_at_the_budget(books: Books, tmp_path: Path) -> None:
    asked = lines([line(f"{index}", messages=[{"role": "user", "content": "a"}], max_tokens=82) for index in range(6)])
    with served(books, tmp_path, [budget(tokens=250)]) as server:
        url = server.url
        form: Any = {"files": {"file": ("a", asked)}, "data": {"purpose": "batch"}, "headers": WHO, "timeout": 30}
        file = requests.post(f"{url}/v1/files", **form).json()
        wanted = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = requests.post(f"{url}/v1/batches", json=wanted, headers=WHO, timeout=30).json()
        pause = threading.Event()
        for _ in range(400):
            batch = requests.get(f"{url}/v1/batches/{batch['id']}", headers=WHO, timeout=30).json()
            if batch["status"] in ENDED:
                break
            pause.wait(0.05)
        errors = requests.get(f"{url}/v1/files/{batch['error_file_id']}/content", headers=WHO, timeout=30).text
    failed = [json.loads(raw) for raw in errors.splitlines()]
    assert batch["status"] == "completed" and batch["request_counts"]["failed"] == len(failed) > 0
    assert all(entry["response"]["status_code"] == 429 for entry in failed)
    assert {(row.tenant, row.key_id, row.route) for row in books.ledger} == {("acme", "k1", CHAT)}
    assert books.tokens <= 250
    assert batch["usage"]["total_tokens"] == books.tokens


def test_the_web_socket_is_charged_and_says_budget(books: Books, tmp_path: Path) -> None:
    with served(books, tmp_path, [budget(tokens=60)]) as server:
        address = server.url.replace("http://", "ws://") + "/v1/stream"
        with connect(address, additional_headers=WHO, proxy=None) as connection:
            asked = {"type": "generate", "id": "a", "model": MODEL, "prompt": "a" * 10, "max_tokens": 4000}
            connection.send(json.dumps(asked))
            message = json.loads(connection.recv(timeout=10))
            while message["type"] != "final":
                message = json.loads(connection.recv(timeout=10))
    assert message["finish_reasons"] == ["budget"] and books.tokens == 60
