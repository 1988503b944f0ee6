import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from grammar_support import builtin_vocabulary, complaint, random_text, spanning_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.matcher import CompiledGrammar
from deepseek.engine.grammar.numbers import EmptyRange, bounds
from deepseek.engine.grammar.schema import TYPES, rewrite

Json = Any
Schema = dict[str, Any]

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"

# Real schemas, one {"id", "data"} a line; not part of the repository.
DATA = Path(os.environ.get("DEEPSEEK_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = DATA / "json-schemas" / "schemas.jsonl"
LEAST_SHARE = 0.85


def compiled(schema: Json) -> CompiledGrammar:
    return spanning_vocabulary().compile(Constraint.json_schema(schema))


def texts(schema: Json, count: int = 8) -> list[str]:
    drawn = [random_text(spanning_vocabulary(), compiled(schema), [seed]) for seed in range(count)]
    return [text for text in drawn if text is not None]


def values(schema: Json, count: int = 12) -> list[Json]:
    return [json.loads(text) for text in texts(schema, count)]


def takes(schema: Json, text: str) -> bool:
    matcher = compiled(schema).matcher()
    ids = [*text.encode(), spanning_vocabulary().end]
    return matcher.valid_prefix(ids) == len(ids)


ENFORCED: list[Json] = [
    True,
    {},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"enum": ["a", 1, 1.5, None, True, [1, {"x": "y"}], {"k": [0]}, "line\nbreak", 'quote"']},
    {"const": {"a": [1, 2], "b": None}},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 4},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": 0.1, "maximum": 0.3},
    {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 9007199254740993},
    {"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    {"$schema": DRAFT_4, "type": "number", "minimum": 2, "exclusiveMinimum": True, "maximum": 3},
    {"$schema": DRAFT_4, "type": "number", "minimum": 2, "enum": [2, 3], "exclusiveMinimum": True},
    {"type": "integer", "multipleOf": 7, "minimum": -50, "maximum": 50},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 9},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "items": False},
    {
        "$schema": DRAFT_7,
        "type": "array",
        "items": [{"type": "null"}],
        "additionalItems": {"type": "boolean"},
        "maxItems": 4,
    },
    {
        "$schema": DRAFT_7,
        "items": [{"const": 1}],
        "allOf": [{"type": "array"}],
        "additionalItems": False,
        "minItems": 1,
    },
    {"type": "array", "uniqueItems": True, "maxItems": 1},
    {"type": "array", "uniqueItems": False, "maxItems": 2},
    {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": {"type": "string", "maxLength": 2},
    },
    {
        "type": "object",
        "patternProperties": {"^x": {"type": "null"}, "^y": {"const": 1}},
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"xa": {"enum": [1, None]}}, "patternProperties": {"^x": {"type": "null"}}},
    {"type": "object", "required": ["a", "b"], "additionalProperties": {"type": "boolean"}},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "null"}},
    {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 2}},
        "minProperties": 1,
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"a": True, "b": True}, "dependentRequired": {"a": ["b"]}},
    {
        "$schema": DRAFT_7,
        "properties": {"a": {"const": 1}},
        "dependencies": {"a": ["b"], "c": {"required": ["a"]}},
        "type": "object",
    },
    {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5, "maximum": 7}]},
    {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]},
    {
        "oneOf": [
            {"type": "string", "maxLength": 2},
            {"type": "integer", "maximum": 3},
            {"type": "array", "maxItems": 0},
        ]
    },
    {
        "oneOf": [
            {"properties": {"t": {"const": n}, "v": {"const": n}}, "required": ["t"], "type": "object"} for n in (1, 2)
        ]
    },
    {"type": "object", "properties": {k: {"const": k} for k in "abc"}, "oneOf": [{"required": [k]} for k in "abc"]},
    {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": {"enum": [1, 2]}, "b": {"enum": [3, "x"]}},
    },
    {"not": {"type": ["string", "object", "array"]}},
    {"type": "object", "properties": {"a": {"const": 1}}, "not": {"anyOf": [{"required": ["b"]}, {"required": ["c"]}]}},
    {
        "$ref": "#/$defs/list",
        "$defs": {"list": {"properties": {"next": {"$ref": "#/$defs/list"}, "v": {"const": 1}}, "type": "object"}},
    },
    {
        "$defs": {"n": {"$id": "http://example.com/n", "type": "null"}},
        "items": {"$ref": "http://example.com/n"},
        "type": "array",
    },
    {"$defs": {"n": {"$anchor": "here", "type": "null"}}, "items": {"$ref": "#here"}, "type": "array", "maxItems": 3},
    {"type": "string", "format": "date", "pattern": "^19"},
    {
        "type": "string",
        "title": "t",
        "description": "d",
        "default": 5,
        "examples": [1],
        "$comment": "c",
        "maxLength": 2,
    },
]


@pytest.mark.parametrize("schema", ENFORCED, ids=lambda schema: json.dumps(schema)[:60])
def test_every_text_of_a_schema_is_valid(schema: Json) -> None:
    found = texts(schema)
    assert found
    assert [(text, complaint(schema, text)) for text in found] == [(text, None) for text in found]


REFUSED: list[tuple[Json, str]] = [
    ({"properties": {"a": {"if": {}, "then": False}}}, "#/properties/a/if"),
    ({"contains": {"const": 1}}, "#/contains"),
    ({"propertyNames": {"maxLength": 3}}, "#/propertyNames"),
    ({"items": {"uniqueItems": True}}, "#/items/uniqueItems"),
    ({"unevaluatedProperties": False}, "#/unevaluatedProperties"),
    ({"anyOf": [{}, {"not": {"const": 1}}]}, "#/anyOf/1/not"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "#/oneOf"),
    ({"oneOf": [{"required": ["a"]}, {"required": ["a", "b"]}]}, "#/oneOf"),
    ({"$dynamicRef": "#x"}, "#/$dynamicRef"),
    ({"type": "string", "nullable": True}, "#/nullable"),
    ({"x-guidance": {"lenient": True}}, "#/x-guidance"),
    ({"type": "number", "multipleOf": 0.1}, "#/multipleOf"),
    (
        {"items": [{"multipleOf": 1001}, {"multipleOf": 1009}, {"multipleOf": 1013}], "$schema": DRAFT_7},
        "#/items/2/multipleOf",
    ),
    # What tells these apart counts for nothing in their drafts.
    (
        {
            "$schema": DRAFT_7,
            "oneOf": [{"$ref": "#/definitions/a", "type": t} for t in TYPES],
            "definitions": {"a": {}},
        },
        "#/oneOf",
    ),
    ({"$schema": DRAFT_4, "oneOf": [{"const": 1}, {"const": 2}]}, "#/oneOf"),
    ({"const": 9007199254740993}, "#/const"),
    ({"enum": ["a", "\x00"]}, "#/enum"),
    ({"type": "integer", "minimum": 10**18}, "#/minimum"),
    ({"minProperties": 5}, "#/minProperties"),
    ({"properties": {"a": {}}, "maxProperties": 3}, "#/maxProperties"),
    ({"patternProperties": {"(?=a)": {}}}, "#/patternProperties/(?=a)"),
    ({"properties": {"a/b~c": {"pattern": "(?=a)"}}}, "#/properties/a~1b~0c/pattern"),
    ({"$ref": "http://example.com/elsewhere.json"}, "#/$ref"),
    ({"$ref": "#/$defs/missing"}, "#/$ref"),
    ({"$schema": "http://example.com/my-dialect"}, "#/$schema"),
    ({"additionalItems": False}, "#/additionalItems"),
    ({"$schema": DRAFT_7, "prefixItems": [{}]}, "#/prefixItems"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"contains": {}}}}, "#/$defs/a/contains"),
    # Not valid schemas.
    ({"type": "strng"}, "#/type"),
    ({"properties": {"a": {"minLength": -1}}}, "#/properties/a/minLength"),
    ({"required": "a"}, "#/required"),
    # Misspelt: the specification would have them ignored.
    ({"min_length": 5}, "#/min_length"),
    ({"items": {"maxlength": 5}}, "#/items/maxlength"),
    ({"AdditionalProperties": False}, "#/AdditionalProperties"),
    # Nothing satisfies these.
    (False, "#"),
    ({"$ref": "#"}, "#"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#"),
]


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_what_cannot_be_enforced_is_refused_with_keyword_and_place(schema: Json, place: str) -> None:
    with pytest.raises(AdmissionError) as caught:
        compiled(schema)
    assert caught.value.where == f"schema {place}"


def test_a_schema_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(AdmissionError, match="no text can satisfy"):
        compiled({"type": "object", "properties": {"a": False}, "required": ["a"]})


def test_a_property_that_can_never_end_is_left_out() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/endless"}, "b": {"const": 1}},
        "$defs": {"endless": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/endless"}}},
        "additionalProperties": False,
    }
    assert {tuple(value) for value in values(schema)} <= {(), ("b",)}


def test_keywords_that_no_draft_has_are_annotations() -> None:
    assert takes({"type": "null", "x-order": 3, "errorMessage": "no", "options": {"hidden": True}}, "null")


def test_a_name_that_is_taken_cannot_be_spelled_another_way() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"const": 1}}
    assert takes(schema, '{"a":null,"b":1}')
    assert not takes(schema, '{"a":null,"a":1}')
    assert not takes(schema, r'{"a":null,"\u0061":1}')


def test_white_space_is_bounded() -> None:
    assert takes({"type": "array"}, "[1, 2,\n    3]")
    assert not takes({"type": "array"}, "[1,  2]")
    assert not takes({"type": "array"}, "[1,\n\n2]")


def test_the_order_of_properties_is_the_schema_s() -> None:
    schema = {"type": "object", "properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a", "b"]}
    assert all(list(value)[:2] == ["b", "a"] for value in values(schema))


def test_any_json_object_is_an_object() -> None:
    grammar = builtin_vocabulary().compile(Constraint.json_object())
    found = [random_text(builtin_vocabulary(), grammar, [seed]) for seed in range(5)]
    assert any(found)
    assert all(isinstance(json.loads(text), dict) for text in found if text)


@given(
    st.floats(-1e6, 1e6) | st.integers(-(10**18), 10**18),
    st.floats(-1e6, 1e6) | st.integers(-(10**18), 10**18),
    st.booleans(),
    st.booleans(),
)
def test_safe_bounds_lie_within_the_given_ones(a: float, b: float, exclusive: bool, integer: bool) -> None:
    low, high = sorted((a, b))
    schema = {"exclusiveMinimum" if exclusive else "minimum": low, "exclusiveMaximum" if exclusive else "maximum": high}
    try:
        safe = bounds(schema, None, None, integer=integer)
    except EmptyRange:
        return
    for bound in (safe["minimum"], safe["maximum"]):
        assert low < bound < high if exclusive else low <= bound <= high
        assert float(bound) == bound
        assert not integer or bound == int(bound)


names = st.sampled_from(["a", "b", "c", "a b"])
scalars: st.SearchStrategy[Schema] = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["null", "boolean", "string", "integer", "number"])}),
    st.fixed_dictionaries(
        {"enum": st.lists(st.sampled_from([None, True, 0, 1, -2.5, "", "a", [], ["a"]]), min_size=1, max_size=3)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")}, optional={"minLength": st.integers(0, 2), "maxLength": st.integers(2, 4)}
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={
            "minimum": st.integers(-9, 0) | st.floats(-2, 0, width=16),
            "exclusiveMaximum": st.integers(1, 9) | st.floats(1, 2, width=16),
            "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
        },
    ),
)


def _nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    schemas = inner | st.booleans()
    return st.one_of(
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.just("object"),
                "properties": st.dictionaries(names, schemas, max_size=3),
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "c$", "^b$"]), schemas, max_size=1),
                "additionalProperties": schemas,
                "required": st.lists(names, max_size=2, unique=True),
                "minProperties": st.integers(0, 1),
                "maxProperties": st.integers(2, 4),
                "dependentRequired": st.dictionaries(names, st.lists(names, max_size=1), max_size=1),
            },
        ),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["array", ["array", "null"]]),
                "prefixItems": st.lists(schemas, min_size=1, max_size=2),
                "items": schemas,
                "minItems": st.integers(0, 2),
                "maxItems": st.integers(2, 3),
            },
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a | {"not": b}, inner, inner),
    )


@settings(max_examples=80)
@given(st.recursive(scalars, _nested, max_leaves=6), st.integers(0, 9))
def test_a_schema_made_at_random_is_enforced_or_refused(schema: Schema, seed: int) -> None:
    try:
        grammar = compiled(schema)
    except Exception as error:
        assert type(error).__name__ in (
            "AdmissionError",
            "GrammarError",
        )  # a GrammarError of compiling becomes the former
        return
    text = random_text(spanning_vocabulary(), grammar, [seed], most=250)
    assert text is None or complaint(schema, text) is None, (text, rewrite(json.dumps(schema)))


@cache
def real_schemas() -> list[Schema]:
    if not REAL.is_file():
        pytest.skip(f"no real schemas at {REAL}; set DEEPSEEK_TEST_DATA to the folder that holds json-schemas/")
    return [json.loads(line) for line in REAL.read_text().splitlines()]


def check_real(schemas: list[Schema], seeds: int) -> tuple[int, int]:
    """How many compile, and how many texts were finished; every one of them must be valid."""
    vocabularies = (builtin_vocabulary(), spanning_vocabulary())
    grammars = finished = 0
    for number, schema in enumerate(schemas):
        vocabulary = vocabularies[number % 2]
        try:
            grammar = vocabulary.compile(Constraint.json_schema(schema["data"]))
        except Exception as error:
            assert type(error).__name__ in ("AdmissionError", "GrammarError")
            continue
        grammars += 1
        for seed in range(seeds):
            text = random_text(vocabulary, grammar, [number, seed], most=800)
            finished += text is not None
            assert text is None or complaint(schema["data"], text) is None, (schema["id"], text)
    return grammars, finished


def test_a_sample_of_real_schemas_compiles_and_is_enforced() -> None:
    sample = sorted(real_schemas(), key=lambda schema: len(json.dumps(schema)))[:300:14]
    grammars, finished = check_real(sample, 2)
    assert grammars >= LEAST_SHARE * len(sample)
    assert finished >= 1.5 * grammars


@pytest.mark.conformance
@pytest.mark.timeout(1800)
def test_at_least_85_percent_of_the_real_schemas_compile_and_all_their_texts_are_valid() -> None:
    grammars, finished = check_real(real_schemas(), 5)
    assert grammars >= LEAST_SHARE * len(real_schemas())
    assert finished >= 4 * grammars
