"""A message is its model: whatever JSON can say of one, Protobuf says too, and back, to the bit.

Values are drawn from the shapes of the models (every branch of every union, any JSON in a field of JSON text), and models
from what the JSON route accepts. protoc's own classes, made from the .proto file in a process of their own, read our bytes
and write the same ones.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.generate import GenerateRequest
from deepseek.api.protobuf.codec import WireError
from deepseek.api.protobuf.contract import MODELS, PROTO_FILE, codec_of
from deepseek.api.protobuf.shapes import (
    AsBytes,
    Box,
    Choice,
    FieldShape,
    JsonText,
    Many,
    Record,
    Scalar,
    Shape,
    Table,
    fields_of,
    nulls_of,
)
from deepseek.api.wire import dump_json

texts = st.text(max_size=5)
numbers = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def values_of(shape: Shape) -> st.SearchStrategy[Any]:
    if isinstance(shape, Scalar):
        if shape.words:
            return st.sampled_from(shape.words)
        return {"string": texts, "int64": whole, "double": numbers, "bool": st.booleans()}[shape.kind]
    if isinstance(shape, JsonText):
        return anything.filter(lambda value: value is not None)
    if isinstance(shape, AsBytes):
        return st.lists(st.integers(0, 255), max_size=4)
    if isinstance(shape, Many):
        return st.lists(values_of(shape.item), min_size=1, max_size=3)
    if isinstance(shape, Table):
        return st.dictionaries(texts, values_of(shape.value), min_size=1, max_size=3)
    if isinstance(shape, Choice):
        return st.one_of([_named(name, member) for name, member in shape.members])
    if isinstance(shape, Box):
        inner = values_of(shape.content)
        return st.none() | inner if shape.nullable else inner
    return objects_of(shape.model)


def _named(name: str, member: Shape) -> st.SearchStrategy[Any]:
    """A member that is told by a field has its own word there."""
    if not isinstance(member, Record):
        return values_of(member)
    keys = [f.key for f in fields_of(member.model) if isinstance(f.shape, Scalar) and name in f.shape.words]
    return objects_of(member.model).map(lambda values: values | dict.fromkeys(keys, name))


def objects_of(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects in the form that comes back: what is null or empty, where it need not be there, is left out."""
    fields = fields_of(model)
    needed = {field.key: _needed(field) for field in fields if field.required}
    needed |= {key: st.none() for key in nulls_of(model)}
    rest = {field.key: values_of(field.shape) for field in fields if not field.required}
    return st.fixed_dictionaries(needed, optional=rest)


def _needed(field: FieldShape) -> st.SearchStrategy[Any]:
    values = values_of(field.shape)
    if isinstance(field.shape, Many) and not field.nullable:
        values = values | st.just([])
    return st.none() | values if field.nullable else values


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_json_says_comes_back_from_protobuf(model: type[BaseModel], data: st.DataObject) -> None:
    values = data.draw(objects_of(model))
    codec = codec_of(model)
    assert codec.decode(codec.encode(values)) == values


REQUESTS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (GenerateRequest, {"model": "m", "prompt": "p"}),
    (GenerateRequest, {"model": "m", "prompt": "p", "temperature": 0, "seed": 2**63 - 1, "logit_bias": {"7": -1.5}}),
    (GenerateRequest, {"model": "m", "prompt": "p", "stop_sequences": ["a", "b"], "echo": False, "max_tokens": 1}),
    (GenerateRequest, {"model": "m", "prompt": "p", "structured_outputs": {"json": {"enum": [1, 2.5, None, 2**70]}}}),
    (GenerateRequest, {"model": "m", "prompt": "p", "structured_outputs": {"json": '{"type": "null"}'}}),
    (GenerateRequest, {"model": "m", "prompt": "p", "structured_outputs": {"choice": ["yes", "no"]}}),
    (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "hello"}]}),
    (ChatRequest, {"model": "m", "messages": [{"role": "developer", "content": [{"type": "text", "text": "be"}]}]}),
    (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stop": ["a"], "stream": True}),
    (
        ChatRequest,
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "s"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "2"},
            ],
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"z": {"minimum": 2**60}, "a": 1.5}}}
            ],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "metadata": {"k": "v"},
        },
    ),
    (
        ChatRequest,
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [], "tool_choice": "auto", "n": 3},
    ),
]


@pytest.mark.parametrize(("model", "body"), REQUESTS)
def test_a_model_comes_back_from_protobuf_as_it_was(model: type[BaseModel], body: dict[str, Any]) -> None:
    original = model.model_validate(body)
    codec = codec_of(model)
    values = codec.decode(codec.encode(original.model_dump(mode="json", by_alias=True)))
    back = model.model_validate_json(dump_json(values))
    # An empty list that might have been null is null.
    assert dump(back) == dump(original)


def dump(model: BaseModel) -> Any:
    return {key: None if value in ([], {}) else value for key, value in model.model_dump(mode="json").items()}


def test_the_keys_of_json_text_keep_their_order() -> None:
    schema = {"properties": {"b": {}, "a": {}}}
    codec = codec_of(GenerateRequest)
    body = {"model": "m", "prompt": "p", "structured_outputs": {"json": schema}}
    assert list(codec.decode(codec.encode(body))["structured_outputs"]["json"]["properties"]) == ["b", "a"]


def test_what_can_only_be_one_word_need_not_be_sent() -> None:
    codec = codec_of(ChatRequest)
    message = codec.make(model="m", messages=[{"user": {"content": {"text": "hello"}}}, {"system": {}}])
    assert codec.values(message)["messages"][0] == {"role": "user", "content": "hello"}
    assert codec.values(message)["messages"][1]["role"] == "system"


def test_a_value_without_a_place_is_an_error_and_not_a_loss() -> None:
    with pytest.raises(WireError, match="surprise"):
        codec_of(GenerateRequest).encode({"model": "m", "prompt": "p", "surprise": 1})


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    codec = codec_of(ChatRequest)
    with contextlib.suppress(WireError):
        json.dumps(codec.decode(data))


def test_unknown_fields_are_passed_over() -> None:
    codec = codec_of(GenerateRequest)
    unknown = b"\xc2\x3e\x03new"  # field 1000, three bytes
    assert codec.decode(codec.encode({"model": "m", "prompt": "p"}) + unknown) == {"model": "m", "prompt": "p"}


ORACLE = """
import json, sys
from google.protobuf import json_format
from deepseek.v1 import deepseek_pb2

for line in sys.stdin:
    name, data = line.split()
    message = getattr(deepseek_pb2, name).FromString(bytes.fromhex(data))
    print(message.SerializeToString(deterministic=True).hex(), json_format.MessageToJson(message, indent=None))
"""


def test_protocs_classes_read_our_bytes_and_write_the_same(tmp_path: Path) -> None:
    source = tmp_path / "proto" / "deepseek" / "v1" / "deepseek.proto"
    source.parent.mkdir(parents=True)
    source.write_bytes(PROTO_FILE.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path / 'proto'}", f"--python_out={out}", str(source)]
    subprocess.run(protoc, check=True, timeout=60)
    ours = []
    for model, body in REQUESTS:
        message = codec_of(model).message(model.model_validate(body).model_dump(mode="json", by_alias=True))
        ours.append((model.__name__, message.SerializeToString(deterministic=True).hex()))
    lines = "\n".join(f"{name} {data}" for name, data in ours)
    ran = subprocess.run(
        [sys.executable, "-c", ORACLE], input=lines, cwd=out, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    theirs = [line.partition(" ") for line in ran.stdout.splitlines()]
    assert [data for data, _, _ in theirs] == [data for _, data in ours]
    assert [json.loads(text)["model"] for _, _, text in theirs] == ["m"] * len(REQUESTS)
