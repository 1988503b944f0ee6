"""A function's signature and docstring as a JSON schema and as the form that checks its arguments.

Types come from the hints, through pydantic; what each argument is for from the docstring (Google, numpy and reST
styles) or from `Annotated[..., Field(description=...)]`. A parameter called like a keyword with an underscore behind it
(`from_`) is the property without it. A parameter annotated `ToolContext` is none of the model's business.

Schemas from elsewhere are brought into the form that grammars take by `normalise_schema`, in `normalise`.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import docstring_parser
import typing_extensions
from pydantic import ConfigDict, Field, PydanticUndefinedAnnotation, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from deepseek.agent.execution.normalise import normalise_function, normalise_schema
from deepseek.agent.execution.validate import HintForm
from deepseek.core.errors import ToolError
from deepseek.engine.grammar.formats import NUMBER_FORMATS, STRING_FORMATS

__all__ = ["ReadFunction", "described", "is_async", "normalise_function", "normalise_schema", "read_function"]

Extra = Literal["allow", "forbid", "ignore"]
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_FORMATS = STRING_FORMATS.keys() | NUMBER_FORMATS.keys()
_FIRST = ("type", "enum")
_DATA = ("default", "enum", "const", "examples")


@dataclass(frozen=True, slots=True)
class ReadFunction:
    """What a function says of itself."""

    description: str
    parameters: dict[str, Any]
    form: HintForm


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; callable objects and partial functions are looked into."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def read_function(function: Callable[..., Any], *, where: str, context_type: type, closed: bool = True) -> ReadFunction:
    """Schema, description and form of a function. Raises ToolError for one that cannot be called by name with JSON.

    closed: arguments it does not have are an error, and the schema says so; else they are ignored and it does not.
    """
    signature, hints = _signature(function, where)
    description, notes = described(function)
    fields: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    positional: list[str] = []
    defaults: dict[str, Callable[[], Any]] = {}
    shown: dict[str, Any] = {}  # default values that JSON can say
    context_parameter = None
    takes_any = False
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise ToolError(
                "takes arguments without a name",
                where=where,
                found=f"*{parameter.name}",
                fix="take a list instead, so that a model can name it",
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
            continue
        if hint is context_type or context_type in typing.get_args(hint):
            context_parameter = parameter.name
            continue
        property_ = _property_name(parameter.name, hint)
        if property_ in fields:
            raise ToolError("two arguments of one name", where=where, found=repr(property_))
        if property_ != parameter.name:
            renamed[property_] = parameter.name
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(parameter.name)
        hint, default = _with_field_default(hint, parameter.default)
        if isinstance(default, FieldInfo):
            defaults[parameter.name] = functools.partial(default.get_default, call_default_factory=True)
            default = default.default
        if parameter.name in notes and not _is_described(hint):
            hint = typing.Annotated[hint, Field(description=notes[parameter.name])]
        if parameter.default is parameter.empty or (parameter.name not in defaults and default is PydanticUndefined):
            fields[property_] = hint
        else:
            fields[property_] = typing_extensions.NotRequired[hint]
            shown[property_] = default
    adapter = _adapter(fields, "allow" if takes_any else "forbid" if closed else "ignore", where)
    parameters = _schema(adapter, where)
    if takes_any or not closed:
        parameters.pop("additionalProperties", None)
    _show_defaults(parameters, shown)
    form = HintForm(where, adapter, parameters, tuple(positional), renamed, defaults, context_parameter)
    return ReadFunction(description, parameters, form)


def described(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What its docstring says: of the function, and of each parameter. Empty where it says nothing."""
    while isinstance(function, functools.partial):
        function = function.func
    text = inspect.getdoc(function)
    if not inspect.isroutine(function) and not inspect.isclass(function):  # an object that can be called
        text = inspect.getdoc(type(function).__call__)
    if not text:
        return "", {}
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return text, {}
    about = "\n".join(filter(None, (parsed.short_description, parsed.long_description))) or text
    notes = {p.arg_name: " ".join(p.description.split()) for p in parsed.params if p.description}
    return about.strip(), notes


def _signature(function: Callable[..., Any], where: str) -> tuple[inspect.Signature, dict[str, Any]]:
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner):
        inner = inner.__init__
    elif not inspect.isroutine(inner):
        inner = type(inner).__call__
    try:
        return inspect.signature(function), typing.get_type_hints(inner, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise ToolError(
            "its signature cannot be read",
            where=where,
            found=str(error)[:200],
            fix="give parameters=, a JSON schema, or hints that can be found from the function's module",
        ) from None


def _property_name(parameter: str, hint: Any) -> str:
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, FieldInfo) and isinstance(extra.alias, str):
            return extra.alias
    bare = parameter.removesuffix("_")
    return bare if keyword.iskeyword(bare) else parameter


def _with_field_default(hint: Any, default: Any) -> tuple[Any, Any]:
    """`x: int = Field(3, ge=0)`, as in a pydantic model, means a bound and a default."""
    if not isinstance(default, FieldInfo):
        return hint, default
    bare = Field(description=default.description)
    bare.metadata = list(default.metadata)
    has_default = default.default is not PydanticUndefined or default.default_factory is not None
    return typing.Annotated[(hint, *default.metadata, bare)], default if has_default else PydanticUndefined


def _is_described(hint: Any) -> bool:
    return any(isinstance(extra, FieldInfo) and extra.description for extra in getattr(hint, "__metadata__", ()))


def _adapter(fields: Mapping[str, Any], extra: Extra, where: str) -> TypeAdapter[Any]:
    # A TypedDict takes any name (`from`, `_x`, `model_config`), and leaves out what was not given.
    typed_dict: Any = typing_extensions.TypedDict
    arguments = typed_dict("Arguments", dict(fields))
    arguments.__pydantic_config__ = ConfigDict(extra=extra, allow_inf_nan=False)
    try:
        return TypeAdapter(arguments)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        raise ToolError(
            "an argument has a type that JSON cannot carry",
            where=where,
            found=str(error).splitlines()[0][:200],
            fix="take text, numbers, lists, dicts, dataclasses or pydantic models",
        ) from None


def _schema(adapter: TypeAdapter[Any], where: str) -> dict[str, Any]:
    try:
        schema = adapter.json_schema()
    except PydanticUserError as error:
        raise ToolError(
            "an argument has a type without a JSON schema", where=where, found=str(error).splitlines()[0][:200]
        ) from None
    schema.pop("description", None)
    plain = _plain(schema)
    # In the order in which every API and paper writes them.
    head = {"type": "object", "properties": plain.pop("properties", {})}
    required = plain.pop("required", [])
    plain.pop("type", None)
    return {**head, "required": required, **plain}


def _plain(schema: Any) -> Any:
    """Without what only pydantic means: titles made up of names, and formats that it checks and no grammar knows."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "format" and isinstance(value, str) and value not in _FORMATS:
            continue
        if key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
            kept[key] = {name: _plain(inner) for name, inner in value.items()}
        else:
            kept[key] = value if key in _DATA else _plain(value)
    # As people write them, and as the built-in model has met them: it reads schemas as text.
    order = {key: at for at, key in enumerate(_FIRST)}
    last = len(order) + len(kept)
    return dict(
        sorted(kept.items(), key=lambda item: order.get(item[0], last if item[0] == "description" else len(order)))
    )


def _show_defaults(parameters: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Say what is meant where nothing is said; where that is nothing, do not offer to say null."""
    for name, default in defaults.items():
        schema = parameters["properties"][name]
        if default is None:
            branches = [branch for branch in schema.get("anyOf", ()) if branch != {"type": "null"}]
            if len(branches) == 1 and len(schema["anyOf"]) == 2:
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
                parameters["properties"][name] = {**branches[0], **rest}
        elif default is not PydanticUndefined:
            try:
                schema["default"] = to_jsonable_python(default)
            except ValueError:
                continue
