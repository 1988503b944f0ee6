"""Protobuf over REST: bodies and answers, streams as delimited frames, which tier may, and what Accept decides."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_support import CONTEXT, MODELS, HeldEngine, quick
from google.protobuf.proto import parse_length_prefixed
from grpc_support import KEYS, bearer, keyed

from deepseek.api import serving
from deepseek.api.dialects.chat_dialect import ChatResponse
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.generate import GenerateRequest, GenerateResponse
from deepseek.api.problems import Problem
from deepseek.api.protobuf.contract import PROTO_FILE, codec_of
from deepseek.api.protobuf.frames import ChatChunk, EventReader, GenerateFrame
from deepseek.api.protobuf.negotiate import negotiated
from deepseek.api.protobuf.transcode import varint
from deepseek.engine.fake import FakeEngine, say

TYPE = "application/x-protobuf"
PROMPT = {"model": MODELS[0], "prompt": "Say hello"}
CHAT = {"model": MODELS[0], "messages": [{"role": "user", "content": "Say hello"}]}
SAID = "Hello, 世界!"
PROFESSIONAL = bearer(KEYS["professional"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(keyed(quick(SAID))) as server:
        yield server.url


def ask(url: str, path: str, body: Any, **headers: str) -> httpx.Response:
    sent = PROFESSIONAL | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, bytes):
        return httpx.post(url + path, content=body, headers={"content-type": TYPE} | sent)
    return httpx.post(url + path, json=body, headers=sent)


def frames_of(model: type, body: bytes) -> list[Any]:
    """As protobuf's own reader of delimited messages reads them."""
    stream, make = io.BytesIO(body), codec_of(model).make
    found = []
    while (message := parse_length_prefixed(make, stream)) is not None:
        found.append(message)
    return found


def test_a_whole_answer_is_one_message(url: str) -> None:
    answer = ask(url, "/v1/generate", PROMPT, accept=TYPE)
    assert answer.headers["content-type"] == f"{TYPE}; proto=deepseek.v1.GenerateResponse"
    assert answer.headers["vary"] == "accept"
    assert "x-seed" in answer.headers
    message = codec_of(GenerateResponse).make.FromString(answer.content)
    assert (message.text, message.finish_reason, message.usage.completion_tokens) == (SAID, "stop", len(SAID.encode()))


@pytest.mark.parametrize("more", [{}, {"n": 2, "logprobs": 1}, {"prompt_logprobs": 2, "echo": True}])
def test_json_and_protobuf_say_the_same(url: str, more: dict[str, Any]) -> None:
    body = {**PROMPT, "seed": 7, **more}
    json = ask(url, "/v1/generate", body).json()
    protobuf = codec_of(GenerateResponse).decode(ask(url, "/v1/generate", body, accept=TYPE).content)
    assert GenerateResponse(**protobuf | {"id": ""}) == GenerateResponse(**json | {"id": ""})


@pytest.mark.parametrize("more", [{}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"prompt_logprobs": 2}])
def test_chat_says_the_same_in_json_and_protobuf(url: str, more: dict[str, Any]) -> None:
    body = {**CHAT, "seed": 7, **more}
    json = ask(url, "/v1/chat/completions", body).json()
    protobuf = codec_of(ChatResponse).decode(ask(url, "/v1/chat/completions", body, accept=TYPE).content)
    fixed = {"id": "", "created": 0}
    assert ChatResponse(**protobuf | fixed) == ChatResponse(**json | fixed)


def test_a_body_may_be_a_message(url: str) -> None:
    answer = ask(url, "/v1/generate", codec_of(GenerateRequest).encode(PROMPT))
    assert answer.json()["text"] == SAID
    answer = ask(url, "/v1/chat/completions", codec_of(ChatRequest).encode(CHAT), accept=TYPE)
    assert codec_of(ChatResponse).decode(answer.content)["choices"][0]["message"]["content"] == SAID


def test_a_stream_is_delimited_messages_the_last_with_reason_and_usage(url: str) -> None:
    answer = ask(url, "/v1/generate", {**PROMPT, "stream": True}, accept=TYPE)
    assert answer.headers["content-type"] == f"{TYPE}; proto=deepseek.v1.GenerateFrame; encoding=delimited"
    *frames, last = frames_of(GenerateFrame, answer.content)
    assert "".join(frame.text for frame in frames) == SAID
    assert (last.finish_reason, last.usage.completion_tokens) == ("stop", len(SAID.encode()))
    assert not last.HasField("problem")


def test_a_chat_streams_too(url: str) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    chunks = frames_of(ChatChunk, ask(url, "/v1/chat/completions", body, accept=TYPE).content)
    assert "".join(choice.delta.content for chunk in chunks for choice in chunk.choices) == SAID
    assert chunks[-1].usage.completion_tokens == len(SAID.encode())


def test_frames_come_as_they_are_made() -> None:
    engine = HeldEngine(["one"])
    with (
        serving(keyed(engine)) as server,
        httpx.stream(
            "POST",
            f"{server.url}/v1/generate",
            json={**PROMPT, "stream": True},
            headers=PROFESSIONAL | {"accept": TYPE},
        ) as answer,
    ):
        pieces = answer.iter_raw()
        (first,) = frames_of(GenerateFrame, next(pieces))
        assert first.text == "one"
        engine.release()
        (last,) = frames_of(GenerateFrame, b"".join(pieces))
        assert last.finish_reason == "stop"


def test_what_fails_after_the_start_is_told_in_a_last_message() -> None:
    engine = FakeEngine(reply=say("hello"), ttft_s=0, inter_token_s=0, max_model_len=CONTEXT, fail_at=_fails)
    with serving(keyed(engine)) as server:
        answer = ask(server.url, "/v1/generate", {**PROMPT, "stream": True}, accept=TYPE)
    *frames, last = frames_of(GenerateFrame, answer.content)
    assert "".join(frame.text for frame in frames) == "he"
    assert (last.problem.status, last.problem.type) == (500, "urn:deepseek:problem:internal")
    assert last.problem.instance == answer.headers["x-request-id"]


def _fails(request: object) -> int | None:
    return None if str(getattr(request, "id", "")).startswith("probe-") else 2


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions"])
def test_problems_stay_problem_documents(url: str, path: str) -> None:
    answer = ask(url, path, {"model": MODELS[0]}, accept=TYPE)
    status = 422 if path == "/v1/generate" else 400
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("headers", [{"accept": TYPE}, {"content-type": TYPE}])
def test_a_tier_without_protobuf_is_told_so_by_its_name(url: str, headers: dict[str, str]) -> None:
    body = codec_of(GenerateRequest).encode(PROMPT)
    sent = {"content-type": "application/json"} | bearer(KEYS["basic"]) | headers
    answer = httpx.post(f"{url}/v1/generate", content=body, headers=sent)
    assert answer.status_code == 403
    assert "basic" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xff\xff", 400),
        (codec_of(GenerateRequest).encode({"model": MODELS[0], "prompt": ""}), 422),
        (codec_of(GenerateRequest).encode({**PROMPT, "temperature": float("inf")}), 422),
        (
            codec_of(GenerateRequest).make(**PROMPT, structured_outputs={"json": "{"}).SerializeToString(),
            400,
        ),
        (codec_of(GenerateRequest).encode({**PROMPT, "prompt": "x" * 5_000_000}), 413),
    ],
)
def test_a_body_that_is_wrong_is_refused(url: str, body: bytes, status: int) -> None:
    assert ask(url, "/v1/generate", body).status_code == status


def test_an_answer_that_nobody_wants_is_not_acceptable(url: str) -> None:
    answer = ask(url, "/v1/generate", PROMPT, accept="text/html")
    assert (answer.status_code, answer.headers["content-type"]) == (406, "application/problem+json")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "json"),
        ("", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("application/json", "json"),
        ("text/event-stream", "json"),
        ("application/json, text/event-stream", "json"),
        (TYPE, "protobuf"),
        ("Application/X-Protobuf", "protobuf"),
        ("application/x-protobuf; proto=deepseek.v1.GenerateResponse", "protobuf"),
        ("application/vnd.google.protobuf", "protobuf"),
        ("application/x-protobuf, */*", "protobuf"),
        ("application/x-protobuf, application/json", "json"),
        ("application/x-protobuf, application/json;q=0.9", "protobuf"),
        ("application/x-protobuf;q=0.5, application/json;q=0.4", "protobuf"),
        ("application/x-protobuf;q=0.5, application/json", "json"),
        ("application/x-protobuf;q=0, */*", "json"),
        ("application/json;q=0, application/*;q=0.1", "protobuf"),
        ("text/html, application/x-protobuf;q=0.2", "protobuf"),
    ],
)
def test_accept_decides_by_weight_and_then_by_precision(accept: str | None, form: str) -> None:
    assert negotiated(accept) == form


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0", "image/*, text/html"])
def test_accept_may_leave_nothing(accept: str) -> None:
    with pytest.raises(Problem) as refused:
        negotiated(accept)
    assert refused.value.status == 406


def test_a_length_is_written_seven_bits_a_byte() -> None:
    assert [varint(value).hex() for value in (0, 1, 127, 128, 300)] == ["00", "01", "7f", "8001", "ac02"]


def test_events_are_read_however_they_are_cut() -> None:
    data = b'data: {"id": "1"}\n\nevent: error\ndata: {"status": 500}\n\ndata: [DONE]\n\n'
    wanted = [{"id": "1"}, {"problem": {"status": 500}}]
    for size in range(1, len(data) + 1):
        reader = EventReader()
        assert [values for at in range(0, len(data), size) for values in reader.feed(data[at : at + size])] == wanted


def test_the_proto_file_is_served_without_a_key(url: str) -> None:
    answer = httpx.get(f"{url}/deepseek.proto")
    assert answer.text == PROTO_FILE.read_text()
