"""What a pydantic model's fields are in Protobuf: one reading of the annotations, for the schema and for the codec alike.

A shape is what JSON's value becomes. Where Protobuf has less than JSON, this is what is done:

    str, int, float, bool     string, int64, double, bool; a Literal is a string, so that a new word breaks nobody
    X | None                  `optional`; a list or map that may be null is left out where it is empty
    X | list[X]               `repeated X`: one is a list of one
    A | B                     a message of its own with a oneof
    list[X | None]            `repeated XOrNull`: a message that may be empty
    dict[str, X]              `map<string, X>`
    dict[str, Any], Any       a string that holds JSON text. google.protobuf.Struct would turn every number into a double
                              and forget the order of keys, which is the order in which a schema's properties are generated
    list[int] of `Octets`     bytes

Fields that can only be null, or exist only to be refused (`deepseek.api.dialects.fields.Only`), are left out.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from deepseek.api.dialects.fields import Octets, Only
from deepseek.core.errors import ConfigError

ScalarKind = Literal["string", "int64", "double", "bool"]


@dataclass(frozen=True, slots=True)
class Scalar:
    kind: ScalarKind
    words: tuple[object, ...] = ()  # of a Literal


@dataclass(frozen=True, slots=True)
class JsonText:
    """Any JSON value, as text."""


@dataclass(frozen=True, slots=True)
class AsBytes:
    """A list of numbers below 256."""


@dataclass(frozen=True, slots=True)
class Record:
    model: type[BaseModel]

    @property
    def name(self) -> str:
        return self.model.__name__.removesuffix("_").removesuffix("Model")


@dataclass(frozen=True, slots=True)
class Many:
    item: Shape


@dataclass(frozen=True, slots=True)
class Table:
    value: Shape


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several. members: their names in the oneof, and their shapes."""

    name: str
    members: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A message around one value: a list, a map, or one that may be missing."""

    name: str
    field: str
    content: Many | Table | Scalar | JsonText | AsBytes | Record | Box | Choice
    nullable: bool = False


Shape = Scalar | JsonText | AsBytes | Record | Many | Table | Choice | Box


@dataclass(frozen=True, slots=True)
class FieldShape:
    """One field of a message. key: its name, in JSON and in Protobuf. required: JSON must have it; nullable: as null."""

    key: str
    shape: Shape
    required: bool
    nullable: bool
    doc: str = ""

    @property
    def presence(self) -> bool:
        """Whether a scalar must tell "not there" from its zero."""
        return self.nullable or not self.required


def fields_of(model: type[BaseModel]) -> tuple[FieldShape, ...]:
    """A model's fields as they stand in it. Raises ConfigError for an annotation that has no form here."""
    owner = Record(model).name
    found = []
    for name, info in model.model_fields.items():
        if info.annotation is _NONE or any(isinstance(mark, Only) for mark in info.metadata):
            continue
        key = info.alias or name
        inner, nullable = _without_none(info.annotation)
        shape = _shape(inner, owner + _camel(key), info)
        found.append(FieldShape(key, shape, info.is_required(), nullable, info.description or _description(inner)))
    return tuple(found)


def nulls_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields that JSON must have and that can only be null: no message has them."""
    fields = model.model_fields.items()
    return tuple(info.alias or name for name, info in fields if info.annotation is _NONE and info.is_required())


def _description(annotation: Any) -> str:
    marks = _unwrapped(annotation)[1]
    return next((mark.description for mark in marks if isinstance(mark, FieldInfo) and mark.description), "")


def _shape(annotation: Any, path: str, info: FieldInfo | None = None) -> Shape:
    """path: what a message of its own would be called, if the shape needs one."""
    annotation, marks = _unwrapped(annotation)
    if info is not None:
        marks = (*marks, *info.metadata)
    if any(isinstance(mark, Octets) for mark in marks):
        return AsBytes()
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and annotation in _SCALARS:
        return Scalar(_SCALARS[annotation])
    if origin is Literal:
        return Scalar(_SCALARS[type(arguments[0])], arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments, path)
    if annotation in (Any, object) or (origin is dict and arguments[1] in (Any, object)):
        return JsonText()
    if origin in (list, tuple):
        return Many(_element(arguments[0], path + "Item"))
    if origin is dict and _unwrapped(arguments[0])[0] is str:
        return Table(_element(arguments[1], path + "Value"))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Record(annotation)
    raise ConfigError("no form in Protobuf", where=path, found=annotation, fix="see deepseek/api/protobuf/shapes.py")


def _element(annotation: Any, path: str) -> Shape:
    """What stands in a list or a map, which can hold neither null nor another list."""
    inner, nullable = _without_none(annotation)
    shape = _boxed(_shape(inner, path), path)
    if not nullable:
        return shape
    name = f"{shape.name}OrNull" if isinstance(shape, Record) else f"{path}OrNull"
    assert not isinstance(shape, Many | Table)
    return Box(name, "value", shape, nullable=True)


def _boxed(shape: Shape, path: str) -> Shape:
    if isinstance(shape, Many):
        return Box(f"{path}List", "items", shape)
    if isinstance(shape, Table):
        return Box(f"{path}Map", "entries", shape)
    return shape


def _union(members: tuple[Any, ...], path: str) -> Shape:
    shapes: list[tuple[str, Shape]] = []
    for member in members:
        inner, marks = _unwrapped(member)
        tag = next((mark.tag.strip("<>") for mark in marks if isinstance(mark, Tag)), None)
        shape = _shape(inner, path)
        if any(shape == other for _, other in shapes):
            continue
        if isinstance(shape, Choice) and tag is None:
            shapes.extend(shape.members)
        elif any(_same_kind(other, shape) for _, other in shapes):
            # Words and any text, say: the wider one.
            shapes = [(name, _widened(other) if _same_kind(other, shape) else other) for name, other in shapes]
        else:
            shapes.append((tag or _member_name(shape), shape))
    if any(isinstance(shape, JsonText) for _, shape in shapes):
        return JsonText()
    if len(shapes) == 1:
        return shapes[0][1]
    if len(shapes) == 2:
        (_, one), (_, many) = shapes
        if isinstance(many, Many) and many.item == one:
            return many
    return Choice(path, tuple((name, _boxed(shape, path)) for name, shape in shapes))


def _same_kind(one: Shape, other: Shape) -> bool:
    return isinstance(one, Scalar) and isinstance(other, Scalar) and one.kind == other.kind


def _widened(shape: Shape) -> Shape:
    return Scalar(shape.kind) if isinstance(shape, Scalar) else shape


def _member_name(shape: Shape) -> str:
    if isinstance(shape, Scalar):
        return {"string": "text", "int64": "integer", "double": "number", "bool": "flag"}[shape.kind]
    if isinstance(shape, Record):
        return snake(shape.name)
    return "entries" if isinstance(shape, Table) else "items"


def _unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    marks: tuple[Any, ...] = ()
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        marks = (*marks, *more)
    return annotation, marks


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation without None, and whether it had it."""
    inner, marks = _unwrapped(annotation)
    if get_origin(inner) not in (Union, types.UnionType):
        return annotation, False
    members = tuple(_flat(inner))
    rest = tuple(member for member in members if member is not _NONE)
    if len(rest) == len(members):
        return annotation, False
    kept = reduce(or_, rest)
    return (Annotated[(kept, *marks)] if marks else kept), True


def _flat(union: Any) -> Iterator[Any]:
    for member in get_args(union):
        inner, marks = _unwrapped(member)
        if not marks and get_origin(inner) in (Union, types.UnionType):
            yield from _flat(inner)
        else:
            yield member


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


_NONE = type(None)
_SCALARS: dict[Any, ScalarKind] = {str: "string", int: "int64", float: "double", bool: "bool"}
