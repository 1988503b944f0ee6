"""The messages and services of `deepseek.v1`, from pydantic models; as yet without numbers (`register`) and in no
notation (`writing`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

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
)
from deepseek.core.errors import ConfigError

Label = Literal["", "optional", "repeated", "map"]


@dataclass(frozen=True, slots=True)
class Field:
    """type: a scalar's, "json" for a string of JSON text, or a message's name; of a map, its value's."""

    name: str
    label: Label
    type: str
    doc: str = ""

    @property
    def registered(self) -> str:
        """What the register says of it: all that a reader of its bytes, or of the generated code, stands on."""
        return {"": "", "optional": "optional ", "repeated": "repeated ", "map": "map to "}[self.label] + self.type


@dataclass(frozen=True, slots=True)
class Message:
    """oneof: its name, where the fields are alternatives."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    oneof: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    request: str
    response: str
    streams: bool
    doc: str


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    doc: str
    methods: tuple[Method, ...]


def messages_of(models: Iterable[type[BaseModel]]) -> tuple[Message, ...]:
    """The messages of these models and of all that stands in them.

    Models of one name are one message where they are the same in it. Raises ConfigError where they are not.
    """
    messages: dict[str, Message] = {}
    seen: set[Shape] = set()
    pending: list[Shape] = [Record(model) for model in models]
    while pending:
        shape = pending.pop(0)
        if isinstance(shape, Many):
            pending.insert(0, shape.item)
            continue
        if isinstance(shape, Table):
            pending.insert(0, shape.value)
            continue
        if not isinstance(shape, Record | Choice | Box):
            continue
        if shape in seen:
            continue
        seen.add(shape)
        message, inside = _message(shape)
        known = messages.setdefault(shape.name, message)
        if _carried(known) != _carried(message):
            raise ConfigError("two messages have one name", where="Protobuf", found=shape.name, fix="rename a model")
        pending[:0] = inside
    return tuple(messages.values())


def _carried(message: Message) -> list[tuple[str, str]]:
    return [(field.name, field.registered) for field in message.fields]


def _message(shape: Record | Choice | Box) -> tuple[Message, list[Shape]]:
    if isinstance(shape, Record):
        found = fields_of(shape.model)
        doc = (shape.model.__doc__ or "").strip() if "__doc__" in vars(shape.model) else ""
        return Message(shape.name, doc, tuple(map(_field, found))), [field.shape for field in found]
    if isinstance(shape, Choice):
        fields = tuple(Field(name, "", _type(member)) for name, member in shape.members)
        return Message(shape.name, "One of these.", fields, "kind"), [member for _, member in shape.members]
    doc = "Empty stands for null." if shape.nullable else ""
    return Message(shape.name, doc, (_field(FieldShape(shape.field, shape.content, not shape.nullable, False)),)), [
        shape.content
    ]


def _field(field: FieldShape) -> Field:
    shape = field.shape
    if isinstance(shape, Many):
        return Field(field.key, "repeated", _type(shape.item), field.doc)
    if isinstance(shape, Table):
        return Field(field.key, "map", _type(shape.value), field.doc)
    label: Label = "optional" if field.presence and isinstance(shape, Scalar | JsonText | AsBytes) else ""
    return Field(field.key, label, _type(shape), field.doc)


def _type(shape: Shape) -> str:
    if isinstance(shape, Scalar):
        return shape.kind
    if isinstance(shape, JsonText):
        return "json"
    if isinstance(shape, AsBytes):
        return "bytes"
    assert isinstance(shape, Record | Choice | Box), "a list or a map in a list is boxed"
    return shape.name


_PASCAL = re.compile(r"[A-Z][A-Za-z0-9]*")
_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def lint(messages: Sequence[Message], services: Sequence[Service]) -> list[str]:
    """Names that buf's BASIC rules would refuse: PascalCase messages, services and methods, lower_snake_case fields."""
    found = [f"message {message.name}" for message in messages if not _PASCAL.fullmatch(message.name)]
    for message in messages:
        found += [f"field {message.name}.{field.name}" for field in message.fields if not _SNAKE.fullmatch(field.name)]
    for service in services:
        named = [service.name, *(method.name for method in service.methods)]
        found += [f"service or method {name}" for name in named if not _PASCAL.fullmatch(name)]
        found += [f"method {method.name} says nothing" for method in service.methods if not method.doc]
    return found
