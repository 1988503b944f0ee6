"""A Protobuf message may hold no more than a JSON body may, and is counted before anything is made of it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from api_support import MODELS, quick
from grpc_support import KEYS, SERVICE, bearer, grpc_server, keyed
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.generate import GenerateRequest
from deepseek.api.problems import Problem
from deepseek.api.protobuf.codec import WireError
from deepseek.api.protobuf.contract import bounds_of, codec_of
from deepseek.api.protobuf.transcode import aside, read_values, varint
from deepseek.api.server import DrainingServer

PROMPT = {"model": MODELS[0], "prompt": "x"}
CHAT = {"model": MODELS[0], "messages": [{"role": "user", "content": "x"}]}


def tag(model: type[BaseModel], name: str, wire: int = 2) -> bytes:
    return varint(codec_of(model).make.DESCRIPTOR.fields_by_name[name].number << 3 | wire)


def generate(**fields: Any) -> bytes:
    return codec_of(GenerateRequest).encode(PROMPT | fields)


EMPTY_MESSAGES = (tag(ChatRequest, "messages") + b"\0") * 1_000_000
TOO_MUCH = {
    "empty messages": (ChatRequest, EMPTY_MESSAGES, "strings"),
    "empty texts": (GenerateRequest, (tag(GenerateRequest, "stop_sequences") + b"\0") * 100_001, "strings"),
    "numbers": (GenerateRequest, generate(stop_token_ids=[1] * 300_001), "values"),
    "numbers unpacked": (GenerateRequest, (tag(GenerateRequest, "stop_token_ids", 0) + b"\1") * 300_001, "values"),
    "one field many times": (
        GenerateRequest,
        generate() + (tag(GenerateRequest, "n", 0) + b"\1") * 20_001,
        "field",
    ),
    "unknown fields": (GenerateRequest, generate() + b"\xc2\x3e\0" * 20_001, "fields"),
    "a map": (GenerateRequest, generate(logit_bias={str(token): 1.0 for token in range(20_001)}), "fields"),
    "JSON text": (GenerateRequest, generate(structured_outputs={"json": [[]] * 300_002}), "values"),
    "keys of JSON text": (
        GenerateRequest,
        generate(structured_outputs={"json": {str(key): 1 for key in range(20_001)}}),
        "fields",
    ),
}


@pytest.mark.parametrize(("model", "data", "what"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_more_than_a_json_body_may_hold_is_refused(model: type[BaseModel], data: bytes, what: str) -> None:
    with pytest.raises(Problem, match=what) as refused:
        read_values(model, data)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (ChatRequest, CHAT | {"messages": CHAT["messages"] * 9_999}),
        (ChatRequest, CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 9_990}]}),
        (GenerateRequest, PROMPT | {"stop_token_ids": [1 << 40] * 299_000}),
        (GenerateRequest, PROMPT | {"stop_sequences": ["a,b:c"] * 90_000}),
        (GenerateRequest, PROMPT | {"prompt": '{"a":[1,2]},' * 300_000}),
        (GenerateRequest, PROMPT | {"structured_outputs": {"json": {"enum": ["{[,:" * 9] * 40_000}}}),
    ],
    ids=["messages", "parts", "numbers", "texts", "prompt", "JSON text"],
)
def test_what_a_json_body_may_hold_is_let_through(model: type[BaseModel], values: dict[str, Any]) -> None:
    assert read_values(model, codec_of(model).encode(values)) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_are_no_message(data: bytes) -> None:
    with contextlib.suppress(WireError):
        bounds_of(ChatRequest).require_few(data)


@given(st.data())
def test_bytes_that_are_a_message_but_for_some_are_counted_or_are_none(data: st.DataObject) -> None:
    whole = bytearray(codec_of(ChatRequest).encode(CHAT | {"tools": [], "stop": ["a"], "metadata": {"k": "v"}}))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3)):
        whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        bounds_of(ChatRequest).require_few(bytes(whole))


@pytest.mark.parametrize(
    "data",
    [b"\x80" * 20, b"\x0a\x7f", b"\x09\0", b"\x0b\x0c", b"\x0e", b"\x08"],
    ids=["no number", "too long", "half a double", "group", "no wire type", "no value"],
)
def test_bytes_that_are_no_message_are_not_counted(data: bytes) -> None:
    with pytest.raises(WireError):
        bounds_of(ChatRequest).require_few(data)


def test_a_large_message_is_read_beside_the_event_loop_and_a_small_one_in_it() -> None:
    async def where(size: int) -> int:
        return await aside(bytes(size), lambda data: threading.get_ident())

    assert asyncio.run(where(100)) == threading.get_ident()
    assert asyncio.run(where(100_000)) != threading.get_ident()


@pytest.fixture(scope="module")
def server() -> Iterator[DrainingServer]:
    with grpc_server(keyed(quick())) as server:
        yield server


def test_the_route_refuses_too_much(server: DrainingServer) -> None:
    headers = bearer(KEYS["professional"]) | {"content-type": "application/x-protobuf"}
    answer = httpx.post(f"{server.url}/v1/generate", content=TOO_MUCH["empty texts"][1], headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=EMPTY_MESSAGES, headers=headers)
    assert "strings" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
def test_the_call_refuses_too_much(server: DrainingServer, method: str) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as failed:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        call(EMPTY_MESSAGES, metadata=tuple(bearer(KEYS["enterprise"]).items()), timeout=10)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "strings" in failed.value.details()
