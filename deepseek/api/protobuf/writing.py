"""The schema as a .proto file, for clients to compile, and as the descriptor that the runtime builds classes from. protoc
makes the second of the first, which a test shows; nothing here needs protoc."""

from __future__ import annotations

import re
from collections.abc import Sequence

from google.protobuf import descriptor_pb2

from deepseek.api.protobuf.register import Numbers, Register
from deepseek.api.protobuf.schema import Field, Message, Service

PACKAGE = "deepseek.v1"
FILE = "deepseek/v1/deepseek.proto"

_PROTO_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "json": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}


def descriptor_of(
    messages: Sequence[Message], services: Sequence[Service], register: Register
) -> descriptor_pb2.FileDescriptorProto:
    """What protoc would make of `proto_text`, comments apart."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    for message in messages:
        _describe(message, register[message.name], file.message_type.add(name=message.name))
    for service in services:
        described = file.service.add(name=service.name)
        for method in service.methods:
            described.method.add(
                name=method.name,
                input_type=f".{PACKAGE}.{method.request}",
                output_type=f".{PACKAGE}.{method.response}",
                server_streaming=method.streams or None,
            )
    return file


def _describe(message: Message, numbers: Numbers, into: descriptor_pb2.DescriptorProto) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    if message.oneof:
        into.oneof_decl.add(name=message.oneof)
    for field in _numbered(message, numbers):
        added = into.field.add(name=field.name, number=numbers[field.name][0], json_name=_json_name(field.name))
        added.label = kinds.LABEL_REPEATED if field.label in ("repeated", "map") else kinds.LABEL_OPTIONAL
        if field.label == "map":
            entry = into.nested_type.add(name=_entry_name(field.name))
            entry.options.map_entry = True
            key = entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, json_name="key")
            key.type = kinds.TYPE_STRING
            value = entry.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL, json_name="value")
            _set_type(value, field.type)
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.{entry.name}"
        else:
            _set_type(added, field.type)
        if message.oneof:
            added.oneof_index = 0
        elif field.label == "optional":
            added.proto3_optional = True
            added.oneof_index = len(into.oneof_decl)
            into.oneof_decl.add(name=f"_{field.name}")
    for name, number in _reserved(message, numbers):
        into.reserved_name.append(name)
        into.reserved_range.add(start=number, end=number + 1)


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _PROTO_TYPES:
        field.type = _PROTO_TYPES[kind]
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


def _numbered(message: Message, numbers: Numbers) -> list[Field]:
    """The fields that have numbers, in their order."""
    return sorted(
        (field for field in message.fields if field.name in numbers), key=lambda field: numbers[field.name][0]
    )


def _reserved(message: Message, numbers: Numbers) -> list[tuple[str, int]]:
    live = {field.name for field in message.fields}
    return [(name, number) for name, (number, _) in numbers.items() if name not in live]


def _json_name(name: str) -> str:
    return re.sub("_+(.)", lambda match: match[1].upper(), name)


def _entry_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry"


def proto_text(messages: Sequence[Message], services: Sequence[Service], register: Register) -> str:
    """The .proto file, for clients to compile."""
    lines = [
        "// Written by python -m deepseek.api.protobuf from the models that the JSON routes check and describe.",
        "// Fields have JSON's names and meaning: docs/api.md tells both.",
        "",
        'syntax = "proto3";',
        "",
        f"package {PACKAGE};",
    ]
    for service in services:
        lines += ["", *_comment(service.doc, ""), f"service {service.name} {{"]
        for method in service.methods:
            answer = f"stream {method.response}" if method.streams else method.response
            lines += [*_comment(method.doc, "  "), f"  rpc {method.name}({method.request}) returns ({answer});"]
        lines.append("}")
    for message in messages:
        lines += ["", *_comment(message.doc, ""), f"message {message.name} {{"]
        numbers = register[message.name]
        for name, number in _reserved(message, numbers):
            lines += [f"  reserved {number};", f'  reserved "{name}";']
        indent = "  "
        if message.oneof:
            lines.append(f"  oneof {message.oneof} {{")
            indent = "    "
        for field in _numbered(message, numbers):
            doc = " ".join(part for part in (field.doc, "JSON text." if field.type == "json" else "") if part)
            lines += _comment(doc, indent)
            kind = "string" if field.type == "json" else field.type
            written = f"map<string, {kind}>" if field.label == "map" else f"{field.label} {kind}".strip()
            lines.append(f"{indent}{written} {field.name} = {numbers[field.name][0]};")
        lines += ["  }", "}"] if message.oneof else ["}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}// {line.strip()}".rstrip() for line in text.splitlines()]
