"""The schema: what it says is what the models say, protoc reads it as we do, and nothing published ever changes."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from google.protobuf import descriptor_pb2
from pydantic import BaseModel, create_model

from deepseek.api.dialects.fields import Octets, Only
from deepseek.api.protobuf.contract import MODELS, PROTO_FILE, SERVICE
from deepseek.api.protobuf.register import breaking, extended, read_register
from deepseek.api.protobuf.schema import Field, Message, lint, messages_of
from deepseek.api.protobuf.writing import FILE, descriptor_of, proto_text
from deepseek.core.errors import ConfigError

REGENERATE = "run python -m deepseek.api.protobuf, and look at what changes"


def compiled(text: str, folder: Path) -> descriptor_pb2.FileDescriptorProto:
    """What protoc makes of a .proto file."""
    source = folder / FILE
    source.parent.mkdir(parents=True)
    source.write_text(text)
    out = folder / "set.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={out}", str(source)]
    subprocess.run(command, check=True, timeout=60)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


def test_every_field_of_the_models_has_its_published_number_and_type() -> None:
    register = read_register()
    assert extended(register, messages_of(MODELS)) == register, REGENERATE


def test_the_committed_file_is_what_the_models_give() -> None:
    assert PROTO_FILE.read_text() == proto_text(messages_of(MODELS), (SERVICE,), read_register()), REGENERATE


def test_protoc_reads_the_file_as_the_runtime_does(tmp_path: Path) -> None:
    ours = descriptor_of(messages_of(MODELS), (SERVICE,), read_register())
    assert compiled(PROTO_FILE.read_text(), tmp_path) == ours


def test_names_are_as_buf_wants_them() -> None:
    assert lint(messages_of(MODELS), (SERVICE,)) == []


def test_numbers_are_unique_and_outside_of_what_protobuf_keeps_for_itself() -> None:
    for fields in read_register().values():
        numbers = [number for number, _ in fields.values()]
        assert len(set(numbers)) == len(numbers)
        assert all(1 <= number < 19_000 or 20_000 <= number < 2**29 for number in numbers)


class Inner(BaseModel):
    kind: Literal["inner"]
    a: int


class Outer(BaseModel):
    """What it is for."""

    plain: str
    maybe: int | None = None
    numbers: list[float] | None = None
    one_or_more: str | list[str] | None = None
    either: str | list[Inner]
    anything: dict[str, Any]
    holes: list[Inner | None]
    by_name: dict[str, Inner]
    raw: Annotated[list[int], Octets()]
    refused: Annotated[object, Only()] = None


def outer() -> dict[str, Message]:
    return {message.name: message for message in messages_of((Outer,))}


def test_each_annotation_has_its_form() -> None:
    fields = {field.name: field.registered for field in outer()["Outer"].fields}
    assert fields == {
        "plain": "string",
        "maybe": "optional int64",
        "numbers": "repeated double",
        "one_or_more": "repeated string",
        "either": "OuterEither",
        "anything": "json",
        "holes": "repeated InnerOrNull",
        "by_name": "map to Inner",
        "raw": "bytes",
    }


def test_alternatives_are_a_oneof() -> None:
    message = outer()["OuterEither"]
    assert message.oneof == "kind"
    assert [(field.name, field.type) for field in message.fields] == [("text", "string"), ("items", "OuterEitherList")]


def test_new_fields_get_the_next_number_and_old_ones_keep_theirs() -> None:
    first = extended({}, messages_of((Inner,)))
    assert first == {"Inner": {"kind": (1, "string"), "a": (2, "int64")}}

    class Inner2(Inner):
        b: bool

    grown = extended(first, [Message("Inner", "", messages_of((Inner2,))[0].fields)])
    assert grown["Inner"] == first["Inner"] | {"b": (3, "bool")}


def test_a_field_that_is_gone_is_reserved_and_its_number_is_not_given_again(tmp_path: Path) -> None:
    full = messages_of((Inner,))[0]
    register = extended({}, [full])
    shorter = Message("Inner", "", full.fields[:1])
    other = Message("Inner", "", (*full.fields[:1], Field("c", "", "bool")))
    assert extended(register, [shorter]) == register
    assert extended(register, [other])["Inner"]["c"] == (3, "bool")
    file = compiled(proto_text([shorter], (), register), tmp_path)
    assert list(file.message_type[0].reserved_name) == ["a"]
    assert file == descriptor_of([shorter], (), register)


def test_a_published_field_cannot_change_its_type() -> None:
    register = {"Inner": {"kind": (1, "string"), "a": (2, "string")}}
    with pytest.raises(ConfigError, match=r"Inner\.a"):
        extended(register, messages_of((Inner,)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: fields.pop("a"), "is gone"),
        (lambda fields: fields.update(a=(7, "int64")), "had number 2"),
        (lambda fields: fields.update(a=(2, "string")), "was int64"),
        (lambda fields: fields.update(b=(2, "bool")), "number 2 twice"),
    ],
)
def test_a_register_that_breaks_old_clients_is_found(change: Any, said: str) -> None:
    old = {"Inner": {"kind": (1, "string"), "a": (2, "int64")}}
    new = copy.deepcopy(old)
    change(new["Inner"])
    assert [said in finding for finding in breaking(old, new)] == [True]
    assert breaking(old, old) == []


def test_two_models_of_one_name_are_refused() -> None:
    other = create_model("Inner", z=(int, ...))
    with pytest.raises(ConfigError, match="one name"):
        messages_of((Inner, other))
