"""Schemas that are nearly JSON schema, brought into it: those of function-calling collections (BFCL), of Python and Java.

What is done, and nothing else:

* type names of programming languages become JSON's: `dict` -> object; `float`, `double` -> number; `tuple`, `list`, `set`
  -> array; `int`, `long` -> integer; `str` -> string; `bool` -> boolean; `none` -> null; `any` -> no type at all;
* an array without `items` may hold anything, an object without `properties` too;
* `optional` and `required` of a single property (true or false), which JSON schema does not know there, are dropped;
  what they say stands in the object's own `required` list;
* `required` names only properties that there are;
* null where a keyword has no value is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek.agent.execution.names import wire_name
from deepseek.core.messages import ToolSpec

_TYPES = {
    "dict": "object",
    "dictionary": "object",
    "hashmap": "object",
    "map": "object",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "tuple": "array",
    "list": "array",
    "set": "array",
    "arraylist": "array",
    "int": "integer",
    "long": "integer",
    "short": "integer",
    "byte": "integer",
    "str": "string",
    "char": "string",
    "text": "string",
    "bool": "boolean",
    "none": "null",
}
_JSON_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ONE_SCHEMA = (
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
)
_MANY_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def normalise_function(function: Mapping[str, Any]) -> ToolSpec:
    """A function as collections write it (name, description, parameters) as a tool: its name as APIs take it (`names`),
    its parameters normalised."""
    parameters = normalise_schema(function.get("parameters") or {})
    if parameters.get("type") != "object":
        parameters = {"type": "object", "properties": {}, **parameters}
    return ToolSpec(wire_name(str(function["name"])), str(function.get("description") or ""), parameters)


def normalise_schema(schema: Any) -> Any:
    """The schema, rewritten as the module says; anything that is no schema comes back as it is."""
    if isinstance(schema, list):
        return [normalise_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    written: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            _write_type(written, value)
        elif key == "optional" or (key == "required" and isinstance(value, bool)) or (value is None and key != "const"):
            continue
        elif key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            written[key] = {name: normalise_schema(inner) for name, inner in value.items()}
        elif key in _ONE_SCHEMA or key in _MANY_SCHEMAS:
            written[key] = normalise_schema(value)
        else:
            written[key] = value
    _keep_known_required(written)
    return written


def _write_type(written: dict[str, Any], value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        written["type"] = value  # the compiler says what is wrong with it
        return
    types = [_TYPES.get(name.lower(), name.lower()) for name in names]
    if "any" in types or ("object" in types and "any" in names):
        return
    types = [new if new in _JSON_TYPES else name for new, name in zip(types, names, strict=True)]
    written["type"] = list(dict.fromkeys(types)) if isinstance(value, list) else types[0]


def _keep_known_required(written: dict[str, Any]) -> None:
    required, properties = written.get("required"), written.get("properties")
    if isinstance(required, list) and isinstance(properties, dict) and "additionalProperties" not in written:
        written["required"] = [name for name in dict.fromkeys(required) if name in properties]
