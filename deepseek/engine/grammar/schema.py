"""A JSON schema of any draft, rewritten so that everything a grammar of it allows is valid.

llguidance turns a schema into a grammar. It refuses most of what it cannot do, but it reads drafts leniently, skips
keywords in the wrong place, and some of its approximations allow more than the schema does. So it is never shown a
schema as it came. `rewrite` reads the schema as `jsonschema` would, by the draft that it declares, and writes it anew
in the part of draft 2020-12 that the grammar holds exactly:

* references are resolved (by `referencing`, as `jsonschema` does) and become plain names; old spellings become new ones;
* formats and patterns become expressions (see `formats`, `regex`), bounds are made safe
  (`numbers`);
* `dependencies`, simple forms of `not` and exclusive `oneOf` (`exclusion`) are expressed by what there is;
* schemas that no finite text satisfies become `false`.

The result may allow less than the schema, never more. What cannot be had on these terms is an AdmissionError with the
keyword, what it says and where (a JSON pointer). Ignored is only what the specification calls an annotation, and
keywords that no version of it has.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from jsonschema import exceptions, validators
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT201909, DRAFT202012

from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.exclusion import Branch, make_exclusive
from deepseek.engine.grammar.formats import NUMBER_FORMATS, STRING_FORMATS
from deepseek.engine.grammar.numbers import EmptyRange, bounds, combinable, exact_constant, exact_multiple
from deepseek.engine.grammar.regex import search_in_json, unspellable

Json = Any
Canonical = dict[str, Any] | bool

MAX_DEPTH = 100
MAX_SCHEMAS = 20_000
# The library follows references by recursion: a chain of 1,000 overflows an 8 MiB stack.
MAX_DEFINITIONS = 300

DRAFTS = {
    "http://json-schema.org/draft-04/schema": DRAFT4,
    "http://json-schema.org/draft-06/schema": DRAFT6,
    "http://json-schema.org/draft-07/schema": DRAFT7,
    "https://json-schema.org/draft/2019-09/schema": DRAFT201909,
    "https://json-schema.org/draft/2020-12/schema": DRAFT202012,
}
_LATEST = "https://json-schema.org/draft/2020-12/schema"
# Drafts in which nothing beside a reference counts; it is enforced all the same.
_LONE_REFERENCES = (DRAFT4, DRAFT6, DRAFT7)
_TUPLE_ITEMS = (DRAFT4, DRAFT6, DRAFT7, DRAFT201909)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANNOTATIONS = _words(
    "title description default examples $comment readOnly writeOnly deprecated contentEncoding contentMediaType "
    "contentSchema $schema $id id $anchor $dynamicAnchor $recursiveAnchor $vocabulary $defs definitions"
)
ENFORCED = _words(
    "type enum const properties patternProperties additionalProperties required minProperties maxProperties items "
    "prefixItems additionalItems minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum "
    "exclusiveMinimum exclusiveMaximum multipleOf allOf anyOf oneOf not $ref dependencies dependentRequired "
    "dependentSchemas"
)
# Keywords of some draft, or of OpenAPI's dialect, that restrict a value and are not enforced here.
REFUSED = _words(
    "if then else contains minContains maxContains propertyNames unevaluatedProperties unevaluatedItems $dynamicRef "
    "$recursiveRef extends disallow divisibleBy nullable x-guidance"
)
# Where these are present but say nothing.
_EMPTY: dict[str, tuple[Json, ...]] = {
    "contains": (),
    "propertyNames": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "nullable": (False,),
    "minContains": (0,),
}
_SQUEEZED = {re.sub("[_-]", "", name).lower(): name for name in ENFORCED | (REFUSED - {"if", "then", "else"})}
TYPES = ("null", "boolean", "number", "string", "array", "object")


def rewrite(source: str) -> dict[str, Any]:
    """The schema (JSON text) as an object that llguidance enforces. Raises AdmissionError."""
    schema = json.loads(source)
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    _check_size(schema)
    specification = _check_valid(schema)
    writer = _Writer(schema, specification)
    return writer.document()


def _check_size(schema: Json) -> None:
    waiting: deque[tuple[Json, int]] = deque([(schema, 1)])
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _error("", "", "nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting.extend((child, depth + 1) for child in children)


def _check_valid(schema: dict[str, Any]) -> Any:
    """Hold the schema to the meta-schema of the draft it declares; return the draft."""
    declared = schema.get("$schema", _LATEST)
    draft = DRAFTS.get(declared.rstrip("#")) if isinstance(declared, str) else None
    if draft is None:
        raise _error("", "$schema", "an unknown dialect", found=json.dumps(declared), expected=", ".join(DRAFTS))
    validator = validators.validator_for({"$schema": declared.rstrip("#")})
    try:
        validator.check_schema(schema)
    except exceptions.SchemaError as error:
        *path, last = error.absolute_path or ("",)
        pointer = "".join(f"/{_escape(step)}" for step in path)
        raise _error(pointer, last, "not a valid schema", found=error.message[:200]) from None
    return draft


class _Writer:
    """One document. `_names` gives every schema that is referred to a name, `_queue` holds those not written yet."""

    def __init__(self, schema: dict[str, Any], specification: Any) -> None:
        resource: Any = specification.create_resource(schema)
        self._draft = specification
        self._root = schema
        uri = resource.id() or ""
        self._resolver = REGISTRY.with_resource(uri, resource).resolver(base_uri=uri)
        self._names: dict[int, str] = {}
        self._queue: deque[tuple[str, Json, Any, str]] = deque()
        self._written = 0
        self.divisors: set[float] = set()

    def document(self) -> dict[str, Any]:
        self._name(self._root, self._resolver, "")
        definitions: dict[str, Canonical] = {}
        while self._queue:
            name, schema, resolver, pointer = self._queue.popleft()
            definitions[name] = self._write(schema, resolver, pointer)
        _drop_endless(definitions)
        definitions = {name: _without_constant_references(s, definitions) for name, s in definitions.items()}
        root = definitions.pop("0")
        if root is False:
            raise _error("", "", "no text can satisfy this schema")
        referred = {name for value in (root, *definitions.values()) for name in _references(value)}
        if "0" in referred:
            definitions["0"] = root
            root = {"$ref": "#/$defs/0"}
        head = root if isinstance(root, dict) else {}
        kept = {name: definitions[name] for name in definitions if name in referred}
        return {"$schema": _LATEST, **head, **({"$defs": kept} if kept else {})}

    def _name(self, schema: Json, resolver: Any, pointer: str) -> str:
        if id(schema) not in self._names:
            if len(self._names) >= MAX_DEFINITIONS:
                raise _error(pointer, "$ref", "too many schemas referred to", expected=f"at most {MAX_DEFINITIONS}")
            self._names[id(schema)] = str(len(self._names))
            self._queue.append((self._names[id(schema)], schema, resolver, pointer))
        return self._names[id(schema)]

    def _write(self, schema: Json, resolver: Any, pointer: str) -> Canonical:
        self._written += 1
        if self._written > MAX_SCHEMAS:
            raise _error(pointer, "", "too large", expected=f"at most {MAX_SCHEMAS} schemas in one")
        if isinstance(schema, bool):
            return schema
        subresource = self._draft.create_resource(schema)
        resolver = resolver.in_subresource(subresource)
        return _SchemaWriter(self, schema, resolver, pointer, self._draft).write()

    # What a schema's writer needs of the document's.
    def sub(self, schema: Json, resolver: Any, pointer: str) -> Canonical:
        return self._write(schema, resolver, pointer)

    def reference(self, reference: str, resolver: Any, pointer: str) -> Canonical:
        contents, resolver = look_up(reference, resolver, pointer)
        if isinstance(contents, bool):
            return contents
        place = reference[1:] if reference.startswith("#") else f" {reference}"
        return {"$ref": f"#/$defs/{self._name(contents, resolver, place)}"}


def look_up(reference: str, resolver: Any, pointer: str) -> tuple[Json, Any]:
    """What a reference names, and how to resolve what is within. Raises AdmissionError; nothing is ever fetched."""
    try:
        resolved = resolver.lookup(reference)
    except (Unresolvable, NoSuchResource, ValueError) as error:
        raise _error(
            pointer, "$ref", "cannot be resolved within the schema", found=reference, fix="include what it refers to"
        ) from error
    if not isinstance(resolved.contents, dict | bool):
        raise _error(pointer, "$ref", "does not name a schema", found=reference)
    return resolved.contents, resolved.resolver


class _SchemaWriter:
    """One schema object. Keywords that restrict by themselves go into `_own`, everything else into `_all`."""

    def __init__(self, document: _Writer, schema: dict[str, Any], resolver: Any, pointer: str, draft: Any) -> None:
        self._document = document
        self._schema = schema
        self._resolver = resolver
        self._pointer = pointer
        self._draft = draft
        self._own: dict[str, Any] = {}
        self._all: list[Canonical] = []

    def write(self) -> Canonical:
        self._check_keywords()
        self._types()
        self._constants()
        self._numbers()
        self._strings()
        self._arrays()
        self._objects()
        self._applicators()
        return _conjunction(self._own, self._all)

    def _check_keywords(self) -> None:
        for keyword, value in self._schema.items():
            if keyword in ENFORCED or keyword in ANNOTATIONS:
                continue
            if keyword in REFUSED and value not in _EMPTY.get(keyword, ()):
                self._refuse(keyword, "not supported")
            meant = _SQUEEZED.get(re.sub("(?<=.)[_-]", "", keyword).lower())
            if meant is not None and meant != keyword:
                self._refuse(keyword, "not a keyword of JSON schema", fix=f"write {meant}")
        if self._draft is DRAFT202012 and self._schema.get("additionalItems", True) not in (True, {}):
            self._refuse("additionalItems", "not part of draft 2020-12", fix="use prefixItems and items")
        if self._draft in _TUPLE_ITEMS and "prefixItems" in self._schema:
            self._refuse("prefixItems", "not part of the draft that $schema declares", fix="declare draft 2020-12")

    def _types(self) -> None:
        given = self._schema.get("type")
        if given is None:
            return
        types = [given] if isinstance(given, str) else given
        self._own["type"] = [t for t in types if t != "integer" or "number" not in types]

    def _constants(self) -> None:
        for keyword in ("const", "enum"):
            if keyword in self._schema:
                values = self._schema["enum"] if keyword == "enum" else [self._schema["const"]]
                for value in values:
                    self._check_constant(keyword, value)
                self._all.append({"enum": values})

    def _check_constant(self, keyword: str, value: Json) -> None:
        if isinstance(value, str) and unspellable(value):
            self._refuse(keyword, "holds a control character that cannot be spelled", found=ascii(value[:50]))
        if isinstance(value, int | float) and not isinstance(value, bool) and not exact_constant(value):
            self._refuse(keyword, "holds a number that is not exact in double precision", found=value)
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._check_constant(keyword, child)

    def _numbers(self) -> None:
        low = high = None
        kind = self._schema.get("format")
        if kind in NUMBER_FORMATS and self._may_be("number", "integer"):
            low, high = NUMBER_FORMATS[kind]
        if not self._may_be("number", "integer"):
            return
        integer = "type" in self._own and "number" not in self._own["type"]
        try:
            self._own |= bounds(self._schema, low, high, integer=integer)
        except EmptyRange:
            keyword = next(
                (k for k in ("exclusiveMinimum", "exclusiveMaximum", "minimum", "maximum") if k in self._schema),
                "format",
            )
            self._refuse(keyword, "no number within these bounds can be written")
        divisor = self._schema.get("multipleOf")
        if divisor is not None:
            if not exact_multiple(divisor):
                self._refuse(
                    "multipleOf",
                    "cannot be enforced exactly",
                    expected="an integer below 65536, or a power of two such as 0.5",
                )
            self._own["multipleOf"] = divisor
            self._document.divisors.add(divisor)
            if not combinable(self._document.divisors):
                self._refuse("multipleOf", "too many different ones in one schema to be combined exactly")

    def _strings(self) -> None:
        kind = self._schema.get("format")
        if kind is not None and kind not in STRING_FORMATS and kind not in NUMBER_FORMATS:
            self._refuse(
                "format", "not a format that is enforced", expected=", ".join((*STRING_FORMATS, *NUMBER_FORMATS))
            )
        if kind in NUMBER_FORMATS and not self._may_be("number", "integer"):
            self._refuse("format", "a format of numbers, on a schema that allows none")
        if not self._may_be("string"):
            return
        self._copy_counts("minLength", "maxLength")
        patterns = []
        if kind in STRING_FORMATS:
            patterns.append(search_in_json(STRING_FORMATS[kind], where=self._at("format")))
        if "pattern" in self._schema:
            patterns.append(search_in_json(self._schema["pattern"], where=self._at("pattern")))
        if patterns:
            self._own["pattern"] = patterns.pop()
        self._all += [{"pattern": pattern} for pattern in patterns]

    def _arrays(self) -> None:
        if not self._may_be("array"):
            return
        if self._schema.get("uniqueItems") is True and self._schema.get("maxItems", 2) > 1:
            self._refuse("uniqueItems", "not supported")
        self._copy_counts("minItems", "maxItems")
        items = self._schema.get("items")
        if self._draft in _TUPLE_ITEMS and isinstance(items, list):
            prefix_keyword, rest_keyword = "items", "additionalItems"
        else:
            prefix_keyword, rest_keyword = "prefixItems", "items"
        prefix, rest = self._schema.get(prefix_keyword), self._schema.get(rest_keyword)
        if prefix:
            self._own["prefixItems"] = [self._sub(s, prefix_keyword, n) for n, s in enumerate(prefix)]
        if rest is not None:
            self._own["items"] = self._sub(rest, rest_keyword)

    def _objects(self) -> None:
        if not self._may_be("object"):
            return
        required = self._schema.get("required", [])
        self._copy_counts("minProperties", "maxProperties")
        # The names of further properties may repeat in the text, where a validator counts them once.
        if self._own.get("minProperties", 0) > len(set(required)) + 1:
            self._refuse("minProperties", "supported only up to one more than there are required properties")
        if required:
            self._own["required"] = list(required)
        if "properties" in self._schema:
            self._own["properties"] = {
                name: self._sub(s, "properties", name) for name, s in self._schema["properties"].items()
            }
        self._check_property_counts()
        if "patternProperties" in self._schema:
            self._own["patternProperties"] = {
                search_in_json(pattern, where=self._at("patternProperties", pattern)): self._sub(
                    s, "patternProperties", pattern
                )
                for pattern, s in self._schema["patternProperties"].items()
            }
        if "additionalProperties" in self._schema:
            self._own["additionalProperties"] = self._sub(self._schema["additionalProperties"], "additionalProperties")
        for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, needed in self._schema.get(keyword, {}).items():
                then: Canonical = {"required": needed} if isinstance(needed, list) else self._sub(needed, keyword, name)
                if then is not True and then != {"required": []}:
                    self._all.append({"anyOf": [{"properties": {name: False}}, then]})

    def _check_property_counts(self) -> None:
        """The grammar counts further properties, not which of the optional ones are there, but for none or one."""
        required = set(self._own.get("required", ()))
        optional = {name for name, s in self._own.get("properties", {}).items() if s is not False} - required
        least = self._own.get("minProperties", 0) - len(required)
        most = self._own["maxProperties"] - len(required) if "maxProperties" in self._own else None
        closed = self._schema.get("additionalProperties") is False and "patternProperties" not in self._schema
        if optional and (least > 0 or most is not None) and not (least <= 1 and most in (None, 1) and closed):
            keyword = "minProperties" if least > 0 else "maxProperties"
            self._refuse(keyword, "not supported beside optional properties", fix="leave it out")

    def _applicators(self) -> None:
        if "$ref" in self._schema:
            self._all.append(self._document.reference(self._schema["$ref"], self._resolver, self._pointer))
        self._all += [self._sub(s, "allOf", n) for n, s in enumerate(self._schema.get("allOf", ()))]
        if "anyOf" in self._schema:
            self._all.append({"anyOf": [self._sub(s, "anyOf", n) for n, s in enumerate(self._schema["anyOf"])]})
        if "oneOf" in self._schema:
            branches = [
                Branch(s, self._resolver, self._sub(s, "oneOf", n)) for n, s in enumerate(self._schema["oneOf"])
            ]
            exclusive = make_exclusive(
                branches, self._schema, self._resolver, lambda r, s: look_up(r, s, self._pointer), self._ignored
            )
            if isinstance(exclusive, tuple):
                both = " and ".join(map(str, exclusive))
                self._refuse(
                    "oneOf",
                    f"the alternatives {both} may both hold, which a grammar cannot rule out",
                    fix="use anyOf, or make the alternatives exclude each other",
                )
            self._all.append({"anyOf": exclusive})
        if "not" in self._schema:
            self._all.append(self._negation(self._schema["not"]))

    def _ignored(self, schema: Mapping[str, Any]) -> Collection[str]:
        """The keywords that validators of this draft ignore in the schema."""
        if "$ref" in schema and self._draft in _LONE_REFERENCES:
            return schema.keys() - {"$ref"}
        return ("const",) if self._draft is DRAFT4 else ()

    def _negation(self, schema: Json) -> Canonical:
        """A schema for what `schema` refuses; AdmissionError if it has no such form."""
        if isinstance(schema, bool):
            return not schema
        given = {keyword: value for keyword, value in schema.items() if keyword not in ANNOTATIONS}
        if not given:
            return False
        keyword, value = next(iter(given.items()))
        if len(given) == 1:
            if keyword == "type":
                types = [value] if isinstance(value, str) else value
                kept = [t for t in TYPES if t not in types and not (t == "number" and "integer" in types)]
                return {"type": kept} if kept else False
            if keyword == "required" and value:
                return {"type": ["object"], "anyOf": [{"properties": {name: False}} for name in value]}
            if keyword == "anyOf":
                return {"allOf": [self._negation(s) for s in value]}
            if keyword == "allOf":
                return {"anyOf": [self._negation(s) for s in value]}
            if keyword == "not":
                return self._sub(value, "not", "not")
        self._refuse("not", "supported only of type, required, anyOf, allOf and not")

    def _copy_counts(self, *keywords: str) -> None:
        self._own |= {k: int(self._schema[k]) for k in keywords if k in self._schema}

    def _may_be(self, *types: str) -> bool:
        return "type" not in self._own or any(t in self._own["type"] for t in types)

    def _sub(self, schema: Json, *path: str | int) -> Canonical:
        return self._document.sub(schema, self._resolver, self._pointer + "".join(f"/{_escape(step)}" for step in path))

    def _at(self, *path: str | int) -> str:
        return "schema #" + self._pointer + "".join(f"/{_escape(step)}" for step in path)

    def _refuse(self, keyword: str, what: str, **more: Any) -> NoReturn:
        value = json.dumps(self._schema.get(keyword), ensure_ascii=False, default=str)
        more.setdefault("found", value if len(value) <= 100 else value[:100] + "…")
        raise _error(self._pointer, keyword, what, **more)


def _conjunction(own: dict[str, Any], others: list[Canonical]) -> Canonical:
    """One schema for all of them. An empty one is true; keywords that restrict by themselves come before the others."""
    others = [other for other in others if other is not True and other != {}]
    if False in [other for other in others if isinstance(other, bool)]:
        return False
    if not others:
        return own or True
    if not own and len(others) == 1:
        return others[0]
    return {**own, "allOf": others}


def _references(schema: Json) -> Iterator[str]:
    """The names that a written schema refers to."""
    if isinstance(schema, dict):
        for keyword, value in schema.items():
            if keyword == "$ref":
                yield value.removeprefix("#/$defs/")
            elif keyword in ("properties", "patternProperties"):
                for child in value.values():
                    yield from _references(child)
            elif keyword != "enum":
                yield from _references(value)
    elif isinstance(schema, list):
        for child in schema:
            yield from _references(child)


def _without_constant_references(schema: Json, definitions: dict[str, Canonical]) -> Json:
    """The schema with references to true and false replaced by those."""
    if isinstance(schema, list):
        return [_without_constant_references(child, definitions) for child in schema]
    if not isinstance(schema, dict):
        return schema
    target = definitions.get(schema["$ref"].removeprefix("#/$defs/")) if "$ref" in schema else None
    if isinstance(target, bool):
        return target
    return {
        keyword: {name: _without_constant_references(child, definitions) for name, child in value.items()}
        if keyword in ("properties", "patternProperties")
        else value
        if keyword in ("enum", "$ref")
        else _without_constant_references(value, definitions)
        for keyword, value in schema.items()
    }


def _drop_endless(definitions: dict[str, Canonical]) -> None:
    """Make false every definition that needs itself, so that no text of it ever ends."""
    ending: set[str] = set()

    def ends(schema: Canonical) -> bool:
        if isinstance(schema, bool):
            return schema
        if "$ref" in schema and schema["$ref"].removeprefix("#/$defs/") not in ending:
            return False
        if not all(ends(part) for part in schema.get("allOf", ())):
            return False
        if "anyOf" in schema and not any(ends(part) for part in schema["anyOf"]):
            return False
        if schema.get("type") == ["object"]:
            properties = schema.get("properties", {})
            return all(ends(properties.get(name, True)) for name in schema.get("required", ()))
        if schema.get("type") == ["array"]:
            needed = schema.get("minItems", 0)
            prefix = schema.get("prefixItems", [])
            return all(map(ends, prefix[:needed])) and (needed <= len(prefix) or ends(schema.get("items", True)))
        return True

    while found := {name for name, schema in definitions.items() if name not in ending and ends(schema)}:
        ending |= found
    for name in definitions.keys() - ending:
        definitions[name] = False


def _escape(step: str | int) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")


def _error(pointer: str, keyword: str | int, what: str, **more: Any) -> AdmissionError:
    place = f"#{pointer}/{_escape(keyword)}" if keyword != "" else f"#{pointer}"
    return AdmissionError(f"{what}", where=f"schema {place}", **more)
