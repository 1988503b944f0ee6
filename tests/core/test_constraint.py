import json

import pytest

from deepseek.core.constraint import MAX_CHOICES, MAX_SOURCE_BYTES, Constraint
from deepseek.core.errors import AdmissionError


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    constraint = Constraint.json_schema({"properties": {"b": {}, "a": {}}})
    assert list(json.loads(constraint.source)["properties"]) == ["b", "a"]


def test_a_schema_may_come_as_text() -> None:
    assert Constraint.json_schema('{"type":"null"}') == Constraint.json_schema({"type": "null"})


def test_true_and_false_are_schemas() -> None:
    assert Constraint.json_schema(True).source == "true"


def test_choices_come_back_in_order_and_once() -> None:
    assert Constraint.choice(["yes", "no", "yes"]).choices == ("yes", "no")
    assert Constraint.regex("yes").choices == ()


def test_constraints_of_equal_content_are_equal_and_can_be_keys() -> None:
    assert len({Constraint.regex("a"), Constraint.regex("a"), Constraint.lark("a")}) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint("sql", "select"),  # type: ignore[arg-type]
        lambda: Constraint("regex", 5),  # type: ignore[arg-type]
        lambda: Constraint.regex(""),
        lambda: Constraint.regex("\ud800"),
        lambda: Constraint.regex("a" * (MAX_SOURCE_BYTES + 1)),
        lambda: Constraint.lark(""),
        lambda: Constraint("json_object", "{}"),
        lambda: Constraint.json_schema("{"),
        lambda: Constraint.json_schema('{"maximum": NaN}'),
        lambda: Constraint.json_schema("[]"),
        lambda: Constraint.json_schema("[" * 100_000),
        lambda: Constraint.json_schema({"const": {1, 2}}),
        lambda: Constraint.json_schema({"maximum": float("inf")}),
        lambda: Constraint.choice([]),
        lambda: Constraint.choice("yes"),
        lambda: Constraint.choice(["yes", ""]),
        lambda: Constraint.choice(["yes", 5]),  # type: ignore[list-item]
        lambda: Constraint.choice([str(n) for n in range(MAX_CHOICES + 1)]),
        lambda: Constraint("choice", '{"a": 1}'),
    ],
)
def test_what_is_no_constraint_is_refused_when_it_is_made(make: object) -> None:
    with pytest.raises(AdmissionError, match="constraint") as caught:
        make()  # type: ignore[operator]
    assert caught.value.reason == "invalid"
