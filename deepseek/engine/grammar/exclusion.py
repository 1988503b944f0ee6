"""`oneOf` without counting: alternatives of which no value satisfies two.

A grammar can say "one or the other", not "exactly one". Where every two alternatives of a `oneOf` exclude each other,
that is the same. Many authors' alternatives do: other types, other values of a tag. Where each of two requires a
property that the other does not, they are made to: each is narrowed to values without what the other requires.

Exclusion is shown on the schemas as given, not as rewritten: those may allow less, and a value outside them may still
satisfy the original.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Json = Any
LookUp = Callable[[str, Any], tuple[Json, Any]]
Ignored = Callable[[Mapping[str, Any]], Collection[str]]

_ALL_TYPES = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
_MAX_DEPTH = 8


class Branch(NamedTuple):
    """An alternative: as given, how to resolve its references, and as rewritten."""

    schema: Json
    resolver: Any
    written: dict[str, Any] | bool


class _Node(NamedTuple):
    schema: Json
    resolver: Any


def make_exclusive(
    branches: Sequence[Branch], parent: Mapping[str, Any], resolver: Any, look_up: LookUp, ignored: Ignored
) -> list[dict[str, Any] | bool] | tuple[int, int]:
    """The alternatives, rewritten and where necessary narrowed so that no two hold at once; or two that may.

    parent: the schema that the `oneOf` belongs to, whose other keywords hold too. ignored: which of a schema's keywords
    the draft has validators ignore; nothing is concluded from those.
    """
    judge = _Judge(look_up, ignored)
    nodes = [_Node(branch.schema, branch.resolver) for branch in branches]
    around = judge.types(_Node({k: v for k, v in parent.items() if k != "oneOf"}, resolver), 0)
    without: list[set[str]] = [set() for _ in branches]
    for second, b in enumerate(nodes):
        for first, a in enumerate(nodes[:second]):
            if judge.disjoint(a, b, 0):
                continue
            shared = around & judge.types(a, 0) & judge.types(b, 0)
            if not (shared <= {"object"} or _about_objects(a) or _about_objects(b)):
                return first, second
            # Values of each must fail the other: by lacking a property that the other requires.
            for i, j in ((first, second), (second, first)):
                lacking = judge.required(nodes[j]) - judge.required(nodes[i])
                if not lacking:
                    return first, second
                if not lacking & without[i]:
                    without[i].add(min(lacking))
    return [
        {"allOf": [branch.written, {"type": ["object"], "properties": dict.fromkeys(sorted(names), False)}]}
        if names
        else branch.written
        for branch, names in zip(branches, without, strict=True)
    ]


def _about_objects(node: _Node) -> bool:
    """Whether the schema speaks of objects only: taking it to mean objects only then loses what nobody had in mind."""
    return isinstance(node.schema, dict) and node.schema.keys() <= {"required", "properties", "title", "description"}


class _Judge:
    def __init__(self, look_up: LookUp, ignored: Ignored) -> None:
        self._look_up = look_up
        self._ignored = ignored

    def disjoint(self, a: _Node, b: _Node, depth: int) -> bool:
        """Whether certainly no value satisfies both."""
        if depth > _MAX_DEPTH:
            return False
        if not self.types(a, depth) & self.types(b, depth):
            return True
        values_a, values_b = self._values(a), self._values(b)
        if values_a is not None and values_b is not None and not values_a & values_b:
            return True
        for node, other in ((a, b), (b, a)):
            for part in self._parts(node):
                if isinstance(part.schema, dict):
                    for keyword in ("anyOf", "oneOf"):
                        if keyword in part.schema and all(
                            self.disjoint(_Node(s, part.resolver), other, depth + 1) for s in part.schema[keyword]
                        ):
                            return True
        if self.types(a, depth) & self.types(b, depth) != {"object"}:
            return False
        for name in self.required(a) | self.required(b):
            for p in self._property(a, name):
                if any(self.disjoint(p, q, depth + 1) for q in self._property(b, name)):
                    return True
        return any(
            False in [p.schema for p in self._property(node, name) if isinstance(p.schema, bool)]
            for node, other in ((a, b), (b, a))
            for name in self.required(other)
        )

    def types(self, node: _Node, depth: int) -> frozenset[str]:
        """The types that a value of the schema may have; whole numbers and others told apart."""
        found = _ALL_TYPES
        if depth > _MAX_DEPTH:
            return found
        for part in self._parts(node):
            if part.schema is False:
                return frozenset()
            if not isinstance(part.schema, dict):
                continue
            if "type" in part.schema:
                given = part.schema["type"]
                found &= frozenset().union(*(_kinds(t) for t in ([given] if isinstance(given, str) else given)))
            if "enum" in part.schema or "const" in part.schema:
                found &= {_kind(v) for v in part.schema.get("enum", [part.schema.get("const")])}
            for keyword in ("anyOf", "oneOf"):
                if keyword in part.schema:
                    options = (self.types(_Node(s, part.resolver), depth + 1) for s in part.schema[keyword])
                    found &= frozenset().union(*options)
        return found

    def required(self, node: _Node) -> set[str]:
        return {
            name
            for part in self._parts(node)
            if isinstance(part.schema, dict) and isinstance(part.schema.get("required"), list)
            for name in part.schema["required"]
        }

    def _values(self, node: _Node) -> frozenset[str] | None:
        """All the values that the schema allows, where it lists them."""
        found: frozenset[str] | None = None
        for part in self._parts(node):
            if isinstance(part.schema, dict) and ("enum" in part.schema or "const" in part.schema):
                listed = part.schema.get("enum", [part.schema.get("const")])
                values = frozenset(_canonical(value) for value in listed)
                found = values if found is None else found & values
        return found

    def _property(self, node: _Node, name: str) -> Iterator[_Node]:
        """Schemas that the property must satisfy if it is there."""
        for part in self._parts(node):
            if not isinstance(part.schema, dict):
                continue
            if name in part.schema.get("properties", {}):
                yield _Node(part.schema["properties"][name], part.resolver)
            elif part.schema.get("additionalProperties") is False and not part.schema.get("patternProperties"):
                yield _Node(False, part.resolver)

    def _parts(self, node: _Node) -> list[_Node]:
        """The schema and what it takes in by `allOf` and `$ref`: a value satisfies all of them."""
        found: list[_Node] = []
        waiting = [node]
        while waiting and len(found) < 64:
            part = waiting.pop()
            if part in found:
                continue
            found.append(part)
            if isinstance(part.schema, dict):
                heeded = self._heeded(part.schema)
                if "$ref" in heeded:
                    waiting.append(_Node(*self._look_up(heeded["$ref"], part.resolver)))
                waiting += [_Node(s, part.resolver) for s in heeded.get("allOf", ())]
        return [
            _Node(self._heeded(part.schema), part.resolver) if isinstance(part.schema, dict) else part for part in found
        ]

    def _heeded(self, schema: dict[str, Any]) -> dict[str, Any]:
        ignored = self._ignored(schema)
        return {keyword: value for keyword, value in schema.items() if keyword not in ignored}


def _kinds(name: str) -> frozenset[str]:
    return frozenset({"integer", "fraction"}) if name == "number" else frozenset({name})


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if float(value).is_integer() else "fraction"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _canonical(value: Json) -> str:
    """Text that is the same for values that are equal in JSON's sense, where 1 and 1.0 are."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_canonical(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return (
        f"{_kind(value)}:{value!r}"
        if not isinstance(value, float) or not value.is_integer()
        else f"integer:{int(value)!r}"
    )
