"""A constraint on an answer's text, beside what may stand around the text: thinking before it, calls instead of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError

Tree = Sequence[Any]


def bound(text: Constraint, calls: Constraint | None, thinking_end: Tree | None) -> Constraint:
    """What the whole answer must match.

    text: what it must match where no call comes. calls: what calls must match, where there may be some instead; a
    constraint of markup. thinking_end: what closes the thinking that comes first; None: none does.
    Raises AdmissionError for a text that can only be bound alone.
    """
    if calls is None and thinking_end is None:
        return text
    tree = _tree(text)
    if thinking_end is not None:
        tree = ["all", ["free"], thinking_end, tree]
    return Constraint.markup(tree if calls is None else ["any", tree, json.loads(calls.source)])


def _tree(text: Constraint) -> Tree:
    if text.kind == "json_object":
        return ["json", {"type": "object"}]
    if text.kind == "json_schema":
        return ["json", json.loads(text.source)]
    if text.kind == "choice":
        return ["any", *(["text", choice] for choice in text.choices)]
    raise AdmissionError(
        "cannot be enforced beside thinking or tools",
        where=f"constraint {text.kind}",
        expected="JSON, a list of texts, or neither thinking nor tools",
    )
