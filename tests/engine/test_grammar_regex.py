import json
import re

import pytest
from grammar_support import random_text, spanning_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError

pytestmark = pytest.mark.filterwarnings("ignore:Possible ")  # Python's, about [[a] and [a&&b]

CLASSES = [
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    ".",
    "[a-f]",
    "[^a-f]",
    r"[^\W\d]",
    r"[^\w]",
    r"[\s.]",
    "[a&&b]",
    "[[a]",
    "[é-ü]",
]
pieces = st.sampled_from([*CLASSES, *"abAké日/- ", r"\/", r"\.", r"\\", r"\n"])
repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "+?"])
simple = st.lists(st.builds(str.__add__, pieces, repeats), min_size=1, max_size=4).map("".join)
grouped = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds("({}|{})".format, inner, inner),
        st.builds("(?:{}){}".format, inner, repeats),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=4,
)
EDGES = [
    "{}",
    "^{}",
    "{}$",
    "^{}$",
    r"\A{}\Z",
    "^{}|b$",
    "(^{}|a)b",
    "a({}$|b)",
    "(?i){}",
    "(?i:{})x",
    "(?s){}",
    "(?a){}",
]
edges = st.sampled_from(EDGES)
patterns = st.builds(lambda edge, inner: edge.format(inner), edges, grouped)


def text_of(constraint: Constraint, seed: int) -> str | None:
    """A text, if there is one in time and the expression is not among the few that are refused."""
    vocabulary = spanning_vocabulary()
    try:
        grammar = vocabulary.compile(constraint)
    except AdmissionError as error:
        assert "ignore-case matching of letters outside ASCII" in str(error)
        return None
    return random_text(vocabulary, grammar, [seed], most=120)


@settings(max_examples=60)
@given(patterns, st.integers(0, 9))
def test_a_text_of_an_expression_is_one_that_python_matches_from_end_to_end(pattern: str, seed: int) -> None:
    text = text_of(Constraint.regex(pattern), seed)
    assert text is None or re.fullmatch(pattern, text)


@settings(max_examples=60)
@given(patterns, st.integers(0, 9))
def test_a_string_of_a_pattern_is_one_in_which_python_finds_it(pattern: str, seed: int) -> None:
    text = text_of(Constraint.json_schema({"type": "string", "pattern": pattern}), seed)
    assert text is None or re.search(pattern, json.loads(text))


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("(?=a)b", "look-ahead"),
        ("(?<!a)b", "look-ahead or look-behind"),
        (r"(a)\1", "back reference"),
        (r"(a)?(?(1)b|c)", "conditional"),
        (r"a\b", "word boundary"),
        ("(?>a)b", "atomic"),
        ("a++b", "possessive"),
        ("a^b", "anchor in the middle"),
        ("(a$)?b", "anchor in the middle"),
        ("(?m)^a", "multi-line"),
        ("(?i)[^é]", "outside ASCII"),
        ("(", "unterminated"),
        (r"\p{L}", "bad escape"),
        ("a{3,2}", "repeat"),
    ],
)
def test_what_cannot_be_enforced_is_named(pattern: str, named: str) -> None:
    with pytest.raises(AdmissionError, match=re.escape(named)):
        spanning_vocabulary().compile(Constraint.regex(pattern))


def test_a_pattern_for_characters_that_json_cannot_spell_is_refused() -> None:
    with pytest.raises(AdmissionError, match=r"#/pattern.*without any character that may be used"):
        spanning_vocabulary().compile(Constraint.json_schema({"type": "string", "pattern": "\x07"}))


def test_a_pattern_is_narrowed_to_the_characters_that_json_can_spell() -> None:
    text = text_of(Constraint.json_schema({"type": "string", "pattern": "^[\x00-\x1f]$"}), 0)
    assert text in (r'"\b"', r'"\f"', r'"\n"', r'"\r"', r'"\t"')
