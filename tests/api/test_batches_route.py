"""/v1/batches, used by OpenAI's own client: lines through the same path as requests, cancelled, drained, gone on with."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from api_support import BROKEN, CONTEXT, QUEUE_FULL, HeldEngine, RecordingEngine, quick, state_of
from hypothesis import given
from hypothesis import strategies as st
from kept_support import CHAT, asking, batch_of, ended, lasting, line, lines, results

from deepseek.api import serving
from deepseek.api.identity.caller import LOCAL_CALLER, Caller
from deepseek.api.kept.lines import Results, check, result_line
from deepseek.api.kept.runner import _take
from deepseek.api.limits.rate import Unlimited, Verdict
from deepseek.api.metering.meter import Account, FreeMeter
from deepseek.api.problems import Problem
from deepseek.core.engine import Request
from deepseek.engine.fake import FakeEngine

EMBED = "/v1/embeddings"
ASK = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with asking(url) as client:
        yield client


def test_a_batchs_lines_are_answered_into_a_file(client: openai.OpenAI) -> None:
    asked = [line(f"r{index}") for index in range(70)]
    made = batch_of(client, asked, metadata={"a": "b"})
    assert (made.object, made.status, made.endpoint, made.metadata) == ("batch", "validating", CHAT, {"a": "b"})
    batch = ended(client, made.id)
    assert batch.status == "completed" and batch.error_file_id is None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (70, 70, 0)
    found = results(client, batch.output_file_id)
    assert set(found) == {request["custom_id"] for request in asked}
    for entry in found.values():
        assert entry["error"] is None and entry["response"]["status_code"] == 200
        assert entry["response"]["body"]["choices"][0]["message"]["content"] == "Hello, 世界!"
    assert batch.usage.output_tokens == 70 * 14
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
    file = client.files.retrieve(batch.output_file_id)
    assert file.purpose == "batch_output" and file.bytes > 0


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3}),
        (EMBED, {"input": "a"}),
        ("/v1/responses", {"input": "a"}),
    ],
)
def test_every_allowed_endpoint_answers_as_it_does_to_a_request(
    client: openai.OpenAI, endpoint: str, body: dict[str, Any]
) -> None:
    batch = ended(client, batch_of(client, [line("r", endpoint, **body)], endpoint).id)
    assert batch.status == "completed" and batch.request_counts.completed == 1
    answer = results(client, batch.output_file_id)["r"]["response"]["body"]
    if endpoint == "/v1/responses":
        assert client.responses.retrieve(answer["id"]).output_text == "Hello, 世界!"
    elif endpoint == EMBED:
        assert (
            answer["data"][0]["embedding"] == client.embeddings.create(model="deepseek-7b", input="a").data[0].embedding
        )
    else:
        assert [choice["text"] for choice in answer["choices"]] == ["Hel", "Hel"]


def test_lines_that_fail_stand_in_a_file_of_their_own(client: openai.OpenAI) -> None:
    asked = [
        line("good"),
        line("bad", messages=[]),
        line("long", messages=[{"role": "user", "content": "x" * CONTEXT}]),
    ]
    batch = ended(client, batch_of(client, asked).id)
    assert batch.status == "completed" and (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert set(results(client, batch.output_file_id)) == {"good"}
    failed = results(client, batch.error_file_id)
    assert failed["bad"]["response"]["status_code"] == 400 and failed["long"]["response"]["status_code"] == 400
    assert "messages" in failed["bad"]["response"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"\n\n", "empty_file", None),
        (b"nonsense\n", "invalid_json_line", 1),
        (b"[1]\n", "invalid_json_line", 1),
        (lines([line("a"), line("a")]), "duplicate_custom_id", 2),
        (lines([line("a"), line("b", url=EMBED)]), "invalid_url", 2),
        (lines([line("a") | {"method": "GET"}]), "invalid_method", 1),
        (lines([line("a", stream=True)]), "invalid_body", 1),
        (lines([line("") | {"custom_id": ""}]), "invalid_custom_id", 1),
        (lines([line("a") | {"other": 1}]), "unknown_field", 1),
    ],
)
def test_an_input_that_is_wrong_fails_the_batch_before_anything_runs(
    client: openai.OpenAI, content: bytes, code: str, number: int | None
) -> None:
    file = client.files.create(file=("a", content), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = ended(client, made.id)
    assert batch.status == "failed" and batch.errors is not None and batch.output_file_id is None
    first = (batch.errors.data or [])[0]
    assert (first.code, first.line) == (code, number)


def test_batches_are_listed_in_pages_newest_first() -> None:
    with serving(state_of(quick())) as server, asking(server.url) as client:
        made = [batch_of(client, [line("a")]).id for _ in range(5)]
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
        for batch_id in made:
            ended(client, batch_id)


def test_unknown_batches_and_files_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="batch-x"):
        client.batches.retrieve("batch-x")
    with pytest.raises(openai.NotFoundError, match="batch-x"):
        client.batches.cancel("batch-x")
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        client.batches.create(input_file_id="file-x", endpoint="/v1/embeddings", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id="file-x", endpoint="/v1/moderations", completion_window="24h")


def test_a_batch_that_ended_cannot_be_cancelled(client: openai.OpenAI) -> None:
    batch = ended(client, batch_of(client, [line("a")]).id)
    with pytest.raises(openai.ConflictError, match="completed"):
        client.batches.cancel(batch.id)


def test_lines_wait_behind_everybody_else() -> None:
    engine = RecordingEngine()
    with serving(state_of(engine)) as server, asking(server.url) as client:
        ended(client, batch_of(client, [line("a", messages=[{"role": "user", "content": "a"}], priority=-5)]).id)
        client.chat.completions.create(model="deepseek-7b", messages=[{"role": "user", "content": "a"}])
    of_batch, of_request = engine.requests
    assert of_batch.priority > of_request.priority + 1000 and of_batch.tenant == of_request.tenant
    assert of_batch.cache_salt == of_request.cache_salt


class CountingEngine(FakeEngine):
    """Counts how many requests are in it at once, and notes what each asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ttft_s=0.0, inter_token_s=0.0005, max_model_len=CONTEXT, **options)
        self.most = 0
        self.prompts: list[bytes] = []

    def generate(self, request: Request) -> Any:
        events = super().generate(request)
        self.most = max(self.most, len(self._live))
        if not request.id.startswith("probe-"):
            self.prompts.append(bytes(request.prompt_ids))
        return events


def test_a_bounded_number_of_lines_runs_at_once() -> None:
    engine = CountingEngine()
    with serving(state_of(engine)) as server, asking(server.url) as client:
        made = [
            batch_of(client, [line(f"{batch}.{index}", messages=ASK, max_tokens=4) for index in range(15)]).id
            for batch in range(4)
        ]
        for batch_id in made:
            assert ended(client, batch_id).request_counts.completed == 15
    assert 2 <= engine.most <= 8


class Throttle(Unlimited):
    """Refuses every other request."""

    def __init__(self) -> None:
        self.asked = 0

    async def take(self, caller: Caller) -> Verdict:
        self.asked += 1
        return Verdict(self.asked % 2 == 0, 1, 0, 0.0, 0.001)


def test_lines_count_against_the_rate_and_wait_for_it() -> None:
    state = state_of(quick())
    throttle = Throttle()
    with serving(state) as server, asking(server.url) as client:
        file = client.files.create(file=("a", lines([line(f"{index}") for index in range(6)])), purpose="batch")
        state.limiter = throttle
        throttle.asked = 1
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        pause = threading.Event()
        for _ in range(200):
            if throttle.asked >= 13:
                break
            pause.wait(0.05)
        state.limiter = Unlimited()
        assert ended(client, made.id).request_counts.completed == 6
    assert throttle.asked >= 13


def test_a_line_that_an_engine_could_not_serve_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stumbling(CountingEngine):
        """Breaks at every third request, and answers the next probe."""

        def generate(self, request: Request) -> Any:
            events = super().generate(request)
            if not request.id.startswith("probe-") and len(self.prompts) % 3 == 1:
                raise BROKEN
            return events

    monkeypatch.setattr("deepseek.api.kept.runner.RETRY_S", (0.01, 0.02))
    with serving(state_of(Stumbling())) as server, asking(server.url) as client:
        batch = ended(client, batch_of(client, [line(f"{index}", messages=ASK, max_tokens=3) for index in range(6)]).id)
    assert batch.request_counts.completed == 6


class Refusing(FakeEngine):
    """Refuses each prompt once, as an engine whose queue is full."""

    def __init__(self) -> None:
        super().__init__(ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT, reply=lambda *_: b"ok")
        self.refused: set[tuple[int, ...]] = set()

    def generate(self, request: Request) -> Any:
        if not request.id.startswith("probe-") and request.prompt_ids not in self.refused:
            self.refused.add(request.prompt_ids)
            raise QUEUE_FULL
        return super().generate(request)


def test_a_line_that_finds_the_queue_full_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.kept.runner.RETRY_S", (0.01, 0.02))
    with serving(state_of(Refusing())) as server, asking(server.url) as client:
        batch = ended(client, batch_of(client, [line("a"), line("b")]).id)
    assert batch.request_counts.completed == 2


def test_cancelling_ends_what_runs_and_keeps_what_was_answered() -> None:
    class HeldAfterTwo(HeldEngine):
        """Answers the prompts that say "quick" and holds the others."""

        async def _events(self, request: Request) -> Any:
            held = b"slow" in bytes(request.prompt_ids)
            async for event in super()._events(request) if held else self.quick(request):
                yield event

        async def quick(self, request: Request) -> Any:
            inner = quick("ok")
            async for event in inner.generate(request):
                yield event

    engine = HeldAfterTwo(["Hel"])
    asked = [line("a quick one"), line("another quick one"), *(line(f"slow {index}") for index in range(6))]
    with serving(state_of(engine), grace_s=0.2) as server, asking(server.url) as client:
        made = batch_of(client, asked)
        assert engine.started.wait(5)
        with pytest.raises(openai.ConflictError, match="batch"):
            client.files.delete(made.input_file_id)
        assert client.batches.cancel(made.id).status == "cancelling"
        batch = ended(client, made.id)
        assert engine.ended.wait(5)
        assert batch.status == "cancelled" and batch.cancelling_at and batch.cancelled_at
        assert batch.request_counts.completed <= 2 and batch.request_counts.failed == 0
        if batch.output_file_id:
            assert set(results(client, batch.output_file_id)) <= {"a quick one", "another quick one"}
        client.files.delete(made.input_file_id)


def test_a_restart_goes_on_where_the_server_stopped(tmp_path: Path) -> None:
    slow = CountingEngine()
    asked = [
        line(f"r{index}", messages=[{"role": "user", "content": f"<r{index}>"}], max_tokens=30) for index in range(60)
    ]
    with lasting(tmp_path, slow) as (server, _), asking(server.url) as client:
        made = batch_of(client, asked)
        pause = threading.Event()
        for _ in range(600):
            if len(slow.prompts) >= 12:
                break
            pause.wait(0.01)
    again = CountingEngine()
    with lasting(tmp_path, again) as (server, _), asking(server.url) as client:
        batch = ended(client, made.id)
        assert batch.status == "completed" and batch.request_counts.completed == 60
        assert set(results(client, batch.output_file_id)) == {request["custom_id"] for request in asked}
        assert batch.usage.output_tokens == 60 * 30
    # Only what was in the engine when the server stopped is asked a second time.
    assert 60 - len(slow.prompts) <= len(again.prompts) < 60
    assert len(slow.prompts) + len(again.prompts) <= 60 + 8


def test_a_caller_that_may_not_ask_any_more_gets_the_rest_unanswered(tmp_path: Path) -> None:
    class Gone:
        """Knows its callers until it is told not to."""

        gone = False

        async def identify(self, headers: Any) -> Caller:
            return replace(LOCAL_CALLER, tenant="t", subject="key", key_id="key")

        def recall(self, written: Any) -> Caller | None:
            return None if self.gone else replace(LOCAL_CALLER, tenant="t", subject="key", key_id=written.key_id)

    identifier = Gone()

    class Leaving(CountingEngine):
        def generate(self, request: Request) -> Any:
            if b"<r3>" in bytes(request.prompt_ids):
                identifier.gone = True
            return super().generate(request)

    state = state_of(Leaving())
    state.identifier = identifier
    asked = [
        line(f"r{index}", messages=[{"role": "user", "content": f"<r{index}>"}], max_tokens=5) for index in range(30)
    ]
    with serving(state) as server, asking(server.url) as client:
        batch = ended(client, batch_of(client, asked).id)
        assert batch.status == "completed" and batch.request_counts.completed + batch.request_counts.failed == 30
        failed = results(client, batch.error_file_id)
    assert len(failed) >= 20 and all(
        entry["error"]["code"] == "caller_gone" for entry in failed.values() if entry["error"]
    )


def test_a_window_that_is_over_leaves_the_rest_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.dialects.batches.WINDOW_S", -1.0)
    with serving(state_of(quick())) as server, asking(server.url) as client:
        batch = ended(client, batch_of(client, [line("a"), line("b")]).id)
        assert batch.status == "expired" and batch.expired_at and batch.request_counts.failed == 2
        assert {entry["error"]["code"] for entry in results(client, batch.error_file_id).values()} == {"batch_expired"}


@given(
    kept=st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6),
    torn=st.binary(max_size=40).filter(lambda raw: b"\n" not in raw),
)
def test_results_are_read_back_up_to_a_torn_line(tmp_path_factory: Any, kept: list[str], torn: bytes) -> None:
    directory = tmp_path_factory.mktemp("results")
    output, errors = directory / "output", directory / "errors"
    first = Results(output, errors)
    body = b'{"usage":{"prompt_tokens":2,"completion_tokens":3}}'
    for index, custom_id in enumerate(kept):
        raw = result_line("id", custom_id, 200 if index % 2 == 0 else 400, "req", body)
        first.add(custom_id, raw, body if index % 2 == 0 else None)
    first.close()
    whole = output.read_bytes()
    output.write_bytes(whole + torn)
    again = Results(output, errors)
    assert again.done == first.done and output.read_bytes() == whole
    again.close()


def test_a_long_input_is_refused_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.kept.lines.MAX_LINES", 3)
    monkeypatch.setattr("deepseek.api.kept.lines.MAX_LINE_BYTES", 400)
    path = tmp_path / "input"
    path.write_bytes(lines([line(f"{index}") for index in range(10)]))
    assert [error.code for error in check(path, CHAT)[1]] == ["too_many_tasks"]
    path.write_bytes(lines([line("x" * 500)]))
    assert check(path, CHAT)[1][0].code == "line_too_long"


def test_a_batch_that_another_server_runs_is_looked_at_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepseek.api.kept.runner.AGAIN_S", 0.05)
    locked: list[Path] = []

    def take(path: Path) -> int | None:
        locked.append(path)
        return _take(path)

    engine = HeldEngine(["Hel"])
    with lasting(tmp_path, engine) as (server, state), asking(server.url) as client:
        made = batch_of(client, [line("a"), line("b")])
        assert engine.started.wait(5)
        monkeypatch.setattr("deepseek.api.kept.runner._take", take)
        beside = state_of(quick())
        beside.shelf = state.shelf
        with serving(beside) as second, asking(second.url) as other:
            pause = threading.Event()
            for _ in range(100):
                if len(locked) >= 3:
                    break
                pause.wait(0.05)
            assert len(locked) >= 3, "it is not looked at again"
            pause.wait(0.3)
            assert len(locked) <= 6
            engine.release()
            assert ended(other, made.id).request_counts.completed == 2


def test_a_line_that_was_charged_in_part_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullForTheSecond(CountingEngine):
        """Has never room for a prompt that says so."""

        def generate(self, request: Request) -> Any:
            if bytes(request.prompt_ids) == b"second":
                raise QUEUE_FULL
            return super().generate(request)

    monkeypatch.setattr("deepseek.api.kept.runner.RETRY_S", (0.001, 0.002))
    monkeypatch.setattr("deepseek.api.passage.PATIENCE_S", 0.01)
    engine = FullForTheSecond(reply=lambda *_: b"ok")
    with serving(state_of(engine)) as server, asking(server.url) as client:
        asked = line("a", "/v1/completions", prompt=["first", "second"], max_tokens=3)
        batch = ended(client, batch_of(client, [asked], "/v1/completions").id)
        failed = results(client, batch.error_file_id)["a"]["response"]
    assert failed["status_code"] == 429 and engine.prompts.count(b"first") == 8


class Budgeted(FreeMeter):
    """Refuses so often; a budget that is only set aside."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.asked = 0

    async def open(self, *request: Any) -> Account:
        self.asked += 1
        self.left -= 1
        if self.left >= 0:
            raise Problem("budget-exhausted", "It is set aside.", headers={"Retry-After": "1"})
        return await super().open(*request)


@pytest.mark.parametrize(("refusals", "asked"), [(5, 6), (1000, 20)])
def test_a_line_waits_for_a_budget_that_is_set_aside_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, refusals: int, asked: int
) -> None:
    monkeypatch.setattr("deepseek.api.kept.runner.RETRY_S", (0.001, 0.002))
    state, meter = state_of(quick()), Budgeted(refusals)
    state.meter = meter
    with serving(state) as server, asking(server.url) as client:
        batch = ended(client, batch_of(client, [line("a")]).id)
    assert batch.request_counts.completed == (asked == refusals + 1) and meter.asked == asked


class OneTenantMayNot(Unlimited):
    """Lets nobody ask whose tenant is "slow"."""

    def __init__(self) -> None:
        self.refused = threading.Event()

    async def take(self, caller: Caller) -> Verdict:
        if caller.tenant == "slow" and caller.tier.priority > 1000:  # a line, not the request that makes its batch
            self.refused.set()
            return Verdict(False, 1, 0, 0.0, 3600.0)
        return await super().take(caller)


class ByKey:
    """The tenant whose name is the key."""

    async def identify(self, headers: Any) -> Caller:
        tenant = headers["authorization"].removeprefix("Bearer ")
        return replace(LOCAL_CALLER, tenant=tenant, subject=tenant, key_id=tenant)

    def recall(self, written: Any) -> Caller | None:
        return replace(LOCAL_CALLER, tenant=written.tenant, subject=written.tenant, key_id=written.tenant)


def test_lines_that_wait_take_no_place_of_those_that_can_be_asked() -> None:
    state, limiter = state_of(quick()), OneTenantMayNot()
    state.limiter, state.identifier = limiter, ByKey()
    with serving(state, grace_s=0.2) as server, asking(server.url, "slow") as slow, asking(server.url, "a") as other:
        for _ in range(3):
            batch_of(slow, [line(f"{index}") for index in range(8)])
        assert limiter.refused.wait(5)
        assert ended(other, batch_of(other, [line("b")]).id).request_counts.completed == 1


def test_a_line_that_waits_when_the_window_ends_is_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.dialects.batches.WINDOW_S", 1.0)
    state = state_of(quick())
    state.limiter, state.identifier = OneTenantMayNot(), ByKey()
    with serving(state) as server, asking(server.url, "slow") as client:
        batch = ended(client, batch_of(client, [line("a"), line("b")]).id)
        assert batch.status == "expired" and batch.request_counts.failed == 2
