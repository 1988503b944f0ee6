"""Arguments of a call: from the model's JSON text to what the function gets, or a message the model can mend it by.

Two forms. `HintForm`: by the function's type hints, through pydantic, so that a `date` arrives as a date. `SchemaForm`:
by a JSON schema from elsewhere, through jsonschema, and the values arrive as they are. Both say every fault in one
message: which argument, what was found, what was expected, and what a misspelt name may have meant.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, get_args

import jsonschema
from jsonschema import ValidationError as JsonSchemaError
from jsonschema import validators
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema, from_json

from deepseek.agent.execution.errors import ArgumentsError
from deepseek.core.errors import ToolError

Arguments = dict[str, Any]

_MAX_FAULTS = 8
_MAX_VALUE_CHARS = 80
_MAX_SCHEMA_CHARS = 1500


class CallForm(Protocol):
    """How a function takes its arguments."""

    @property
    def context_parameter(self) -> str | None:
        """The parameter that gets the ToolContext, if any."""
        ...

    def check(self, arguments: Arguments) -> Arguments:
        """The arguments as the function takes them, by the names of its parameters. Raises ArgumentsError."""
        ...

    def call(self, function: Callable[..., Any], values: Arguments) -> Any:
        """The function called with what `check` returned."""
        ...


def parse_arguments(text: str, max_bytes: int) -> Arguments:
    """The object that the text is; nothing at all is no arguments. Raises ArgumentsError."""
    if not text or text.isspace():
        return {}
    if len(text) > max_bytes or (not text.isascii() and len(text.encode("utf-8", "replace")) > max_bytes):
        raise ArgumentsError(
            "the arguments are too long", found=f"{len(text)} characters", expected=f"at most {max_bytes} bytes"
        )
    try:
        parsed = from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # the latter for a lone surrogate
        raise ArgumentsError(
            "the arguments are not valid JSON", found=str(error), fix="write one JSON object"
        ) from None
    if not isinstance(parsed, dict):
        raise ArgumentsError("the arguments are not a JSON object", found=_shown(parsed), fix="write one JSON object")
    return parsed


def canonical(arguments: Mapping[str, Any]) -> str:
    """The same text for the same arguments, whatever their order and spacing. Raises ArgumentsError for what JSON
    cannot say: an infinite number."""
    try:
        return _CANONICAL.encode(arguments)
    except (ValueError, TypeError, RecursionError) as error:
        raise ArgumentsError("the arguments cannot be written as JSON", found=str(error)[:200]) from None


_CANONICAL = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class HintForm:
    """By type hints. parameters: property -> parameter, where they differ. defaults: values pydantic's Field gave."""

    where: str
    adapter: TypeAdapter[Any]
    schema: Mapping[str, Any]
    positional: tuple[str, ...]  # parameters that cannot be given by name, in their order
    parameters: Mapping[str, str]
    defaults: Mapping[str, Callable[[], Any]]
    context_parameter: str | None

    def check(self, arguments: Arguments) -> Arguments:
        try:
            values: Arguments = self.adapter.validator.validate_python(arguments)
        except ValidationError as error:
            faults = (_hint_fault(e, self.schema) for e in error.errors(include_url=False, include_context=False))
            raise _misfit(self.where, faults, self.schema) from None
        for property_, parameter in self.parameters.items():
            if property_ in values:
                values[parameter] = values.pop(property_)
        for parameter, make in self.defaults.items():
            if parameter not in values:
                values[parameter] = make()
        return values

    def call(self, function: Callable[..., Any], values: Arguments) -> Any:
        if not self.positional:
            return function(**values)
        named = dict(values)
        given = [named.pop(name) for name in self.positional if name in named]
        return function(*given, **named)


class SchemaForm:
    """By a JSON schema. `where` names the tool. Raises ToolError if it is no schema of an object.

    As `jsonschema` has it, within time that the arguments' length bounds: a pattern that only a backtracking engine can
    match is not enforced, and neither is `unevaluatedProperties` beside `patternProperties`.
    """

    def __init__(self, where: str, schema: Mapping[str, Any], function: Callable[..., Any], context_type: type) -> None:
        if not isinstance(schema, Mapping):
            raise ToolError("its parameters must be a JSON schema", where=where, found=type(schema).__name__)
        schema = {"type": "object", **schema} if "type" not in schema and "$ref" not in schema else dict(schema)
        if schema.get("type", "object") != "object":
            raise ToolError("its parameters must be an object", where=where, found=_shown(schema.get("type")))
        try:
            plain = json.loads(json.dumps(schema))  # jsonschema knows no Mapping but dict
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolError("its parameters are not JSON", where=where, found=str(error)[:200]) from None
        kind = validators.validator_for(plain, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(plain)
        except jsonschema.SchemaError as error:
            raise ToolError(
                "its parameters are no valid JSON schema",
                where=f"{where}: {error.json_path}",
                found=error.message[:200],
            ) from None
        bounded = {**_BOUNDED, "unevaluatedProperties": _nothing} if _has_patterns(plain) else _BOUNDED
        extended = validators.extend(kind, bounded)  # type: ignore[no-untyped-call]
        self._validator = extended(
            plain, registry=REGISTRY
        )  # with a registry of its own it fetches no remote reference
        self._where, self._schema = where, plain
        self.context_parameter, self._accepted = _named_parameters(function, context_type)

    def check(self, arguments: Arguments) -> Arguments:
        try:
            faults = list(islice(self._validator.iter_errors(arguments), _MAX_FAULTS))
        except Exception as error:  # an unresolvable reference, a pattern that is none, a nesting too deep
            raise ToolError("its schema cannot be checked", where=self._where, found=str(error)[:200]) from None
        if faults:
            raise _misfit(self._where, (_schema_fault(fault) for fault in faults), self._schema)
        if self._accepted is not None and (unknown := arguments.keys() - self._accepted):
            texts = (f"{name}: there is no such argument{_meant(name, self._accepted)}" for name in sorted(unknown))
            raise _misfit(self._where, texts, self._schema)
        return arguments

    def call(self, function: Callable[..., Any], values: Arguments) -> Any:
        return function(**values)


def _named_parameters(function: Callable[..., Any], context_type: type) -> tuple[str | None, frozenset[str] | None]:
    """The context's parameter, and the names the function takes; None: any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None, None
    spellings = (context_type, context_type.__name__, f"{context_type.__name__} | None")
    context = next(
        (p.name for p in parameters if p.annotation in spellings or context_type in get_args(p.annotation)), None
    )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return context, None
    return context, frozenset(p.name for p in parameters if p.name != context and p.kind is not p.VAR_POSITIONAL)


@lru_cache(maxsize=1024)
def _searched(pattern: str) -> SchemaValidator | None:
    """The pattern in Rust's engine, whose time is linear in the text; None for what that cannot do (look-around)."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return None


def _matches(pattern: str, text: str) -> bool:
    searched = _searched(pattern)
    return searched is None or searched.isinstance_python(text)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[JsonSchemaError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield JsonSchemaError(f"does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[JsonSchemaError]:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for name, value in instance.items():
                if _searched(pattern) is not None and _matches(pattern, name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[JsonSchemaError]:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [key for key in instance if key not in named and not any(_matches(pattern, key) for pattern in patterns)]
    if isinstance(allowed, dict):
        for key in extra:
            yield from validator.descend(instance[key], allowed, path=key)
    elif not allowed and extra:
        yield JsonSchemaError("has properties that are not allowed")


def _nothing(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[JsonSchemaError]:
    return iter(())


def _has_patterns(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "patternProperties" in schema or any(map(_has_patterns, schema.values()))
    return isinstance(schema, list) and any(map(_has_patterns, schema))


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[JsonSchemaError]:
    if unique and isinstance(instance, list):
        written = {json.dumps(_as_number(item), sort_keys=True) for item in instance}
        if len(written) < len(instance):
            yield JsonSchemaError("has items that are equal")


def _as_number(value: Any) -> Any:
    """1.0 is 1 to JSON schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_number(item) for item in value]
    return {key: _as_number(item) for key, item in value.items()} if isinstance(value, dict) else value


# jsonschema's own take time without bound for arguments made for it: `re` backtracks and holds the interpreter's lock,
# and items are compared pair by pair.
_BOUNDED = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}


def _misfit(where: str, faults: Iterable[str], schema: Mapping[str, Any]) -> ArgumentsError:
    lines = list(dict.fromkeys(islice(faults, _MAX_FAULTS)))
    expected = json.dumps({"properties": schema.get("properties", {}), "required": schema.get("required", [])})
    if len(expected) > _MAX_SCHEMA_CHARS:
        expected = "arguments " + ", ".join(map(repr, list(schema.get("properties", {}))[:20]))
    return ArgumentsError(
        "the arguments do not fit: " + "; ".join(lines), where=where, expected=expected, fix="call it again with these"
    )


def _hint_fault(error: Any, schema: Mapping[str, Any]) -> str:
    path, kind = error["loc"], error["type"]
    name = ".".join(str(step) for step in path)[:200]
    if kind == "missing":
        return f"{name}: missing"
    if kind == "extra_forbidden":
        return f"{name}: there is no such argument{_meant(str(path[-1]), schema.get('properties', ()))}"
    return f"{name}: {error['msg'][:200]}, found {_shown(error['input'])}"


def _schema_fault(error: Any) -> str:
    name = ".".join(str(step) for step in error.absolute_path)[:200]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return "; ".join(f"{name}.{key}: missing".lstrip(".") for key in missing)
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), dict):
        known = error.schema["properties"]
        patterns = error.schema.get("patternProperties", {})
        unknown = [key for key in error.instance if key not in known and not any(_matches(p, key) for p in patterns)]
        return "; ".join(f"{name}.{key}: there is no such argument{_meant(key, known)}".lstrip(".") for key in unknown)
    if error.validator in ("type", "enum", "const"):
        expected = json.dumps(error.validator_value, ensure_ascii=False)[:200]
        return f"{name}: must be {expected}, found {_shown(error.instance)}".lstrip(": ")
    limit = json.dumps(error.validator_value, ensure_ascii=False)[:200]
    return f"{name}: breaks {error.validator} {limit}, found {_shown(error.instance)}".lstrip(": ")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:100], list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = json.dumps(
        value[: _MAX_VALUE_CHARS + 1] if isinstance(value, str) else value, ensure_ascii=False, default=repr
    )
    return text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "…"
