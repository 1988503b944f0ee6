"""Every call, by a client that learnt it by reflection: whole answers, streams, models, deadlines, cancellation."""

import json
import threading
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest
from api_support import CONTEXT, MODELS, HeldEngine, RecordingEngine, quick
from grpc_support import KEYS, Client, client_of, grpc_server, keyed

from deepseek.api.server import DrainingServer
from deepseek.engine.fake import FakeEngine, say

PROMPT = {"model": MODELS[0], "prompt": "Say hello"}
CHAT = {"model": MODELS[0], "messages": [{"user": {"content": {"text": "Say hello"}}}]}
SAID = "Hello, 世界!"


@pytest.fixture(scope="module")
def server() -> Iterator[DrainingServer]:
    with grpc_server(keyed(quick(SAID))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: DrainingServer) -> Iterator[Client]:
    with client_of(server, KEYS["enterprise"]) as client:
        yield client


def test_generate_answers_with_the_text_its_reason_and_what_it_used(client: Client) -> None:
    answer = client.call("Generate", PROMPT)
    assert (answer.text, answer.finish_reason, answer.model) == (SAID, "stop", MODELS[0])
    assert answer.usage.prompt_tokens == len("Say hello")
    assert answer.usage.completion_tokens == len(SAID.encode())


def test_generate_says_what_the_http_route_says(server: DrainingServer, client: Client) -> None:
    fields = {**PROMPT, "seed": 7, "n": 2, "logprobs": 2, "prompt_logprobs": 1}
    found = client.call("Generate", fields)
    headers = {"authorization": f"Bearer {KEYS['enterprise']}"}
    wanted = httpx.post(f"{server.url}/v1/generate", json=fields, headers=headers).json()
    assert [choice.text for choice in found.choices] == [choice["text"] for choice in wanted["choices"]]
    assert [token.token for token in found.choices[1].logprobs] == [
        token["token"] for token in wanted["choices"][1]["logprobs"]
    ]
    assert not found.prompt_logprobs[0].HasField("value")
    assert found.prompt_logprobs[1].value.bytes == bytes(wanted["prompt_logprobs"][1]["bytes"])


def test_generate_stream_ends_with_a_frame_that_has_reason_and_usage(client: Client) -> None:
    *frames, last = client.call("GenerateStream", PROMPT)
    assert "".join(frame.text for frame in frames) == SAID
    assert all(not frame.HasField("finish_reason") for frame in frames)
    assert last.finish_reason == "stop"
    assert last.usage.completion_tokens == len(SAID.encode())


def test_chat_answers_a_conversation(client: Client) -> None:
    answer = client.call("Chat", CHAT)
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"


def test_chat_stream_ends_with_usage_without_being_asked_to(client: Client) -> None:
    chunks = list(client.call("ChatStream", CHAT))
    assert "".join(choice.delta.content for chunk in chunks for choice in chunk.choices) == SAID
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens == len(SAID.encode())


def test_a_json_schema_travels_as_json_text(client: Client) -> None:
    schema = json.dumps({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": 2**60}}})
    fields = {**PROMPT, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    assert client.call("Generate", fields).finish_reason == "stop"


def test_models_lists_the_names_this_key_may_use(client: Client) -> None:
    cards = client.call("Models", {}).data
    assert [card.id for card in cards] == list(MODELS)
    assert cards[0].max_model_len == CONTEXT


def test_the_answer_comes_with_the_requests_id_and_its_seed(client: Client) -> None:
    _, call = client.with_call("Generate", {**PROMPT, "seed": 41})
    trailing = dict(call.trailing_metadata())
    assert trailing["x-seed"] == "41"
    assert trailing["x-request-id"].startswith("req-")


def test_a_clients_own_request_id_is_kept(client: Client) -> None:
    stream = client.call("GenerateStream", PROMPT, x_request_id="mine-7")
    assert dict(stream.initial_metadata())["x-request-id"] == "mine-7"
    assert list(stream)


def test_the_calls_deadline_is_the_requests() -> None:
    engine = RecordingEngine()
    with grpc_server(keyed(engine)) as server, client_of(server, KEYS["enterprise"]) as client:
        client.call("Generate", {**PROMPT, "timeout_s": 3000.0}, timeout=100.0)
        client.call("Generate", {**PROMPT, "timeout_s": 50.0}, timeout=100.0)
        client.call("Generate", PROMPT, timeout=None)
    left = [None if request.deadline is None else request.deadline - time.monotonic() for request in engine.requests]
    assert left[2] is None
    # gRPC rounds a time-out up on its way.
    assert left[0] is not None and 60 < left[0] <= 105
    assert left[1] is not None and 10 < left[1] <= 50


def test_a_call_past_its_deadline_ends_and_so_does_its_work() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine)) as server, client_of(server, KEYS["enterprise"]) as client:
        with pytest.raises(grpc.RpcError) as failed:
            client.call("Generate", PROMPT, timeout=0.3)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert engine.ended.wait(5)


@pytest.mark.parametrize("said", [["one"], []])
def test_a_client_that_cancels_ends_its_work(said: list[str]) -> None:
    engine = HeldEngine(said)
    with grpc_server(keyed(engine)) as server, client_of(server, KEYS["enterprise"]) as client:
        stream = client.call("GenerateStream", PROMPT)
        if said:
            assert next(stream).text == "one"
        else:
            assert engine.started.wait(5)
        stream.cancel()
        assert engine.ended.wait(5)


def test_a_slow_reader_holds_no_memory() -> None:
    engine = HeldEngine(endless=True)
    with grpc_server(keyed(engine, send_timeout_s=0.5)) as server, client_of(server, KEYS["enterprise"]) as client:
        stream = client.call("GenerateStream", {**PROMPT, "max_tokens": 10})
        next(stream)
        assert engine.ended.wait(20)
        # 4 KiB each: what the windows of the connection take, and not what an engine could make in that time.
        assert engine.yielded < 5000
        stream.cancel()


def test_calls_run_side_by_side(server: DrainingServer, client: Client) -> None:
    texts = []
    threads = [threading.Thread(target=lambda: texts.append(client.call("Generate", PROMPT).text)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [SAID] * 16


def test_an_engine_that_fails_is_an_internal_error_that_shows_nothing() -> None:
    engine = FakeEngine(reply=say("hello"), ttft_s=0, inter_token_s=0, max_model_len=CONTEXT, fail_at=_fails)
    with grpc_server(keyed(engine)) as server, client_of(server, KEYS["enterprise"]) as client:
        with pytest.raises(grpc.RpcError) as failed:
            client.call("Generate", PROMPT)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "injected" not in failed.value.details()
        with pytest.raises(grpc.RpcError) as failed:
            list(client.call("GenerateStream", PROMPT))
        assert failed.value.code() is grpc.StatusCode.INTERNAL


def _fails(request: object) -> int | None:
    return None if str(getattr(request, "id", "")).startswith("probe-") else 2
