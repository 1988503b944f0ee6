import ipaddress
import re
from datetime import date, datetime
from urllib.parse import urlsplit

import pytest
from grammar_support import complaint, random_text, spanning_vocabulary

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.formats import NUMBER_FORMATS, STRING_FORMATS

TEXTS = 12
EXAMPLES = {
    "date": "2024-02-28",
    "time": "23:59:59.123Z",
    "date-time": "1999-12-31T08:00:00+02:00",
    "duration": "P3Y6M4DT12H30M5S",
    "email": "first.last+tag@mail.example.com",
    "hostname": "a-b.example.org",
    "ipv4": "192.168.0.255",
    "ipv6": "2001:db8::ff00:42:8329",
    "uri": "https://example.com:8080/a/b%20c?q=1#top",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "json-pointer": "/a~1b/0",
    "relative-json-pointer": "1/a",
    "byte": "aGVsbG8=",
}
READERS = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda text: urlsplit(text).port,
}
REFUSED = [
    ({"format": "regex"}, "regex"),
    ({"type": "object", "format": "table"}, "table"),
    ({"format": ""}, '""'),
    ({"type": "string", "format": "int32"}, "int32"),
]


def drawn(schema: dict[str, object]) -> list[str]:
    vocabulary = spanning_vocabulary()
    grammar = vocabulary.compile(Constraint.json_schema(schema))
    texts = [random_text(vocabulary, grammar, [seed], most=300) for seed in range(TEXTS)]
    return [text for text in texts if text is not None]


@pytest.mark.parametrize("name", STRING_FORMATS)
def test_strings_of_a_format_satisfy_its_checker(name: str) -> None:
    schema: dict[str, object] = {"type": "string", "format": name}
    texts = drawn(schema)
    assert texts
    assert [complaint(schema, text) for text in texts] == [None] * len(texts)


@pytest.mark.parametrize(("name", "check"), READERS.items())
def test_strings_of_a_format_are_understood_by_who_reads_them(name: str, check: object) -> None:
    for text in drawn({"type": "string", "format": name}):
        check(text[1:-1])  # type: ignore[operator]


@pytest.mark.parametrize(("name", "example"), EXAMPLES.items())
def test_an_ordinary_value_can_be_written(name: str, example: str) -> None:
    assert re.fullmatch(STRING_FORMATS[name], example)


@pytest.mark.parametrize("name", NUMBER_FORMATS)
def test_numbers_of_a_format_are_within_its_range(name: str) -> None:
    low, high = NUMBER_FORMATS[name]
    for kind in ("integer", "number"):
        assert all(low <= float(text) <= high for text in drawn({"type": kind, "format": name}))


def test_a_format_of_strings_says_nothing_of_numbers() -> None:
    assert drawn({"type": "integer", "format": "date-time"})


@pytest.mark.parametrize(("schema", "named"), REFUSED)
def test_a_format_that_is_not_enforced_is_refused_by_name(schema: dict[str, object], named: str) -> None:
    with pytest.raises(AdmissionError, match=f"#/format: .*{named}"):
        spanning_vocabulary().compile(Constraint.json_schema(schema))
