"""One model's messages to and from the values that JSON has: `encode` and `decode` take and give what `json.loads` gives.

So a request in Protobuf is checked by the very model that checks JSON, and an answer in Protobuf is JSON's answer. Values
come from our own dialects; a key that the schema lacks is an error, not a loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import message as protobuf
from google.protobuf.descriptor import Descriptor
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
    nulls_of,
)
from deepseek.core.errors import DeepSeekError

Values = dict[str, Any]
Convert = Callable[[Any], Any]
MAX_JSON_CHARS = 1 << 22


class WireError(DeepSeekError):
    """Bytes that are no message of this type, or a value that has no place in one."""


class Codec:
    """Of one model. make: the class of its messages."""

    def __init__(self, model: type[BaseModel], make: Any) -> None:
        self.make = make
        converters = _Converters()
        self._encode = converters.encoder(Record(model), make.DESCRIPTOR)
        self._decode = converters.decoder(Record(model))

    def message(self, values: Mapping[str, Any]) -> Any:
        """The message of a JSON object. Raises WireError for what has no place in it."""
        try:
            return self.make(**self._encode(values))
        except (KeyError, TypeError, ValueError) as error:
            raise WireError("an answer does not fit its Protobuf message", where=self.name, found=str(error)) from error

    def encode(self, values: Mapping[str, Any]) -> bytes:
        return bytes(self.message(values).SerializeToString())

    def values(self, message: Any) -> Values:
        """The JSON object of a message. Raises WireError where a field of JSON text holds something else."""
        found: Values = self._decode(message)
        return found

    def decode(self, data: bytes) -> Values:
        """Raises WireError for bytes that are no such message. Fields of no number known here are not looked at."""
        message = self.make()
        try:
            message.ParseFromString(data)
        except protobuf.DecodeError:
            raise WireError("not a message of this type", where=self.name) from None
        return self.values(message)

    @property
    def name(self) -> str:
        """The full name of its messages."""
        return str(self.make.DESCRIPTOR.full_name)


class _Converters:
    """Functions for shapes, each made once: models may contain themselves."""

    def __init__(self) -> None:
        self._encoders: dict[str, Convert] = {}
        self._decoders: dict[str, Convert] = {}

    def encoder(self, shape: Shape, descriptor: Descriptor | None) -> Convert:
        """From JSON's value to what a message's constructor takes. descriptor: of the shape's own message, if it is one."""
        if isinstance(shape, JsonText):
            return _json_text
        if isinstance(shape, AsBytes):
            return bytes
        if isinstance(shape, Scalar):
            return float if shape.kind == "double" else _same
        assert descriptor is not None and not isinstance(shape, Many | Table)
        if shape.name not in self._encoders:
            self._encoders[shape.name] = lambda value: self._encoders[shape.name](value)  # until it is made
            self._encoders[shape.name] = self._message_encoder(shape, descriptor)
        return self._encoders[shape.name]

    def _message_encoder(self, shape: Record | Choice | Box, descriptor: Descriptor) -> Convert:
        if isinstance(shape, Record):
            fields = {field.key: field for field in fields_of(shape.model)}
            known = {key: self._field_encoder(field.shape, descriptor, key) for key, field in fields.items()}
            open_model = shape.model.model_config.get("extra") == "allow"

            def record(values: Mapping[str, Any]) -> Values:
                found = {}
                for key, value in values.items():
                    if value is None:
                        continue
                    convert = known.get(key)
                    if convert is not None:
                        found[key] = convert(value)
                    elif not open_model:
                        raise KeyError(f"{shape.name}.{key}")
                return found

            return record
        if isinstance(shape, Box):
            content = self._field_encoder(shape.content, descriptor, shape.field)
            return lambda value: {} if value is None else {shape.field: content(value)}
        members = [
            (name, _matcher(member), self._field_encoder(member, descriptor, name)) for name, member in shape.members
        ]

        def choice(value: Any) -> Values:
            for name, matches, convert in members:
                if matches(value):
                    return {name: convert(value)}
            raise ValueError(f"{shape.name}: {type(value).__name__}")

        return choice

    def _field_encoder(self, shape: Shape, owner: Descriptor, name: str) -> Convert:
        field = owner.fields_by_name.get(name)
        if field is None:
            return _unnumbered
        inside: Any = field.message_type
        if isinstance(shape, Many):
            item = self.encoder(shape.item, inside)
            if isinstance(shape.item, Scalar):
                return lambda value: value if isinstance(value, list) else [value]
            return lambda value: [item(entry) for entry in (value if isinstance(value, list) else [value])]
        if isinstance(shape, Table):
            held = inside.fields_by_name["value"].message_type
            convert = self.encoder(shape.value, held)
            if held is None:
                return lambda value: {key: convert(entry) for key, entry in value.items()}
            make = held._concrete_class  # a map takes messages only
            return lambda value: {key: make(**convert(entry)) for key, entry in value.items()}
        return self.encoder(shape, inside)

    def decoder(self, shape: Shape) -> Convert:
        """From what a message's field gives to JSON's value."""
        if isinstance(shape, JsonText):
            return _parsed
        if isinstance(shape, AsBytes):
            return list
        if isinstance(shape, Scalar):
            return _same
        if isinstance(shape, Many):
            if isinstance(shape.item, Scalar):
                return list
            item = self.decoder(shape.item)
            return lambda value: [item(entry) for entry in value]
        if isinstance(shape, Table):
            entry_of = self.decoder(shape.value)
            return lambda value: {key: entry_of(entry) for key, entry in value.items()}
        if shape.name not in self._decoders:
            self._decoders[shape.name] = lambda value: self._decoders[shape.name](value)
            self._decoders[shape.name] = self._message_decoder(shape)
        return self._decoders[shape.name]

    def _message_decoder(self, shape: Record | Choice | Box) -> Convert:
        if isinstance(shape, Record):
            fields = fields_of(shape.model)
            known = {field.key: self.decoder(field.shape) for field in fields}
            absent = {field.key: value for field in fields if (value := _absent(field)) is not _NOT_THERE}
            absent |= dict.fromkeys(nulls_of(shape.model), lambda: None)

            def record(message: Any) -> Values:
                found = {field.name: known[field.name](value) for field, value in message.ListFields()}
                return {key: make() for key, make in absent.items() if key not in found} | found

            return record
        if isinstance(shape, Box):
            content = self.decoder(shape.content)
            empty = _empty(shape.content)

            def box(message: Any) -> Any:
                if shape.nullable and not message.ListFields():
                    return None
                return content(getattr(message, shape.field)) if message.ListFields() else empty()

            return box
        members = {name: self.decoder(member) for name, member in shape.members}
        tags = {name: _tagged_by(name, member) for name, member in shape.members}

        def choice(message: Any) -> Any:
            name = message.WhichOneof("kind")
            if name is None:
                return None
            value = members[name](getattr(message, name))
            for key in tags[name]:  # which of the alternatives is set says it already
                value[key] = value[key] or name
            return value

        return choice


def _tagged_by(name: str, shape: Shape) -> list[str]:
    """The fields of a member that may say by what name it stands in its union."""
    if not isinstance(shape, Record):
        return []
    found = ((field.key, field.shape) for field in fields_of(shape.model) if field.required)
    return [key for key, inner in found if isinstance(inner, Scalar) and name in inner.words]


_NOT_THERE: Any = object()


def _absent(field: FieldShape) -> Any:
    """What makes the value of a field that is not among those set: its zero, where JSON must have one."""
    if not field.required:
        return _NOT_THERE
    return (lambda: None) if field.nullable else _empty(field.shape, _NOT_THERE)


def _empty(shape: Shape, otherwise: Any = None) -> Any:
    if isinstance(shape, Scalar):
        if len(shape.words) == 1:  # it can only be one, so it need not be sent
            return lambda: shape.words[0]
        return {"string": str, "int64": int, "double": float, "bool": bool}[shape.kind]
    if isinstance(shape, Many | AsBytes):
        return list
    return dict if isinstance(shape, Table) else otherwise


def _matcher(shape: Shape) -> Callable[[Any], bool]:
    """Whether a JSON value is this member of a union."""
    if isinstance(shape, Box):
        kind = list if isinstance(shape.content, Many) else dict
        return lambda value: isinstance(value, kind)
    if isinstance(shape, Scalar):
        types: tuple[type, ...] = {"string": (str,), "int64": (int,), "double": (int, float), "bool": (bool,)}[
            shape.kind
        ]
        return lambda value: isinstance(value, types) and (shape.kind == "bool" or not isinstance(value, bool))
    if isinstance(shape, AsBytes):
        return lambda value: isinstance(value, list)
    assert isinstance(shape, Record)
    fields = fields_of(shape.model)
    fixed = {f.key: f.shape.words for f in fields if isinstance(f.shape, Scalar) and f.shape.words and f.required}
    needed = {field.key for field in fields if field.required}
    return lambda value: (
        isinstance(value, dict) and needed <= value.keys() and all(value[key] in words for key, words in fixed.items())
    )


def _same(value: Any) -> Any:
    return value


def _unnumbered(value: Any) -> Any:
    raise KeyError("a field without a number; run python -m deepseek.api.protobuf")


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("a field of JSON text holds something else", found=repr(text[:80])) from None
