"""What a request's whole output must match: a JSON schema, any JSON object, a regular expression, one of a list of
texts, a context-free grammar in Lark's notation, or text, JSON and control tokens put together (a call of a tool).

A `Constraint` is data: its kind and one source text. Making one checks its form and size; whether the schema, the
expression or the grammar can be enforced is found out when it is compiled (`deepseek.engine.grammar.compiler`),
which an engine does before it admits the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deepseek.core.errors import AdmissionError

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice", "lark", "markup"]

Markup = Sequence[Any]
"""A tree of lists, each a name and what it applies to; see `Constraint.markup`."""

# Room for the largest schemas met in the wild (a Kubernetes resource is some hundreds of kB), not for more.
MAX_SOURCE_BYTES = 1 << 20
MAX_CHOICES = 10_000
_MAX_MARKUP_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint; made by the constructors below, each of which raises AdmissionError for what it cannot be.

    source: the schema as JSON, the expression, the texts as a JSON array, the grammar, or the markup as JSON; empty
        for "json_object".
    Two constraints are equal, and compile to the same grammar, exactly when kind and source are.
    """

    kind: ConstraintKind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ConstraintKind):
            raise AdmissionError(
                "unknown kind of constraint",
                where="constraint",
                found=repr(self.kind),
                expected=" | ".join(get_args(ConstraintKind)),
            )
        if not isinstance(self.source, str):
            raise _wrong(self.kind, "its source must be text", found=type(self.source).__name__)
        try:
            size = len(self.source.encode())
        except UnicodeEncodeError as error:
            raise _wrong(self.kind, "not valid Unicode", found=f"a lone surrogate at {error.start}") from None
        if size > MAX_SOURCE_BYTES:
            raise _wrong(self.kind, "too long", found=f"{size} bytes", expected=f"at most {MAX_SOURCE_BYTES}")
        if self.kind == "json_object":
            if self.source:
                raise _wrong(self.kind, "takes no source", fix='use "json_schema" for a schema')
        elif not self.source:
            raise _wrong(self.kind, "empty")
        if self.kind == "choice":
            _require_choices(_parse(self.kind, self.source))
        elif self.kind == "json_schema":
            _require_schema(_parse(self.kind, self.source))
        elif self.kind == "markup":
            _require_markup(_parse(self.kind, self.source), 0)

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | bool | str) -> Constraint:
        """JSON that the schema accepts; given as an object, or as JSON text. The order of properties is kept."""
        return cls("json_schema", schema if isinstance(schema, str) else _dump("json_schema", schema))

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object."""
        return cls("json_object")

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Text that the regular expression matches from its beginning to its end."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Constraint:
        """Exactly one of the texts."""
        if isinstance(choices, str):
            raise _wrong("choice", "not a list of texts", found=repr(choices[:50]))
        return cls("choice", _dump("choice", list(choices)))

    @classmethod
    def lark(cls, grammar: str) -> Constraint:
        """Text that the grammar derives from its rule `start`, in Lark's notation."""
        return cls("lark", grammar)

    @classmethod
    def markup(cls, markup: Markup) -> Constraint:
        """Text, JSON and control tokens in a certain order. Only a program that knows the tokenizer can write one.

        markup: ["text", "as it is"], ["token", id], ["json", schema], ["free"] (any text, none included),
        ["until", "text"] (any text, then this one; a control token must come next), ["all", markup, ...] (one after
        the other), ["any", markup, ...] (one of them), ["maybe", markup], ["many", markup] (once or more) or
        ["many", markup, separator].
        """
        return cls("markup", _dump("markup", markup))

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of a "choice", without repetitions; empty for the other kinds."""
        return tuple(dict.fromkeys(json.loads(self.source))) if self.kind == "choice" else ()


def _dump(kind: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(kind, "cannot be written as JSON", found=str(error)) from None


def _parse(kind: str, source: str) -> object:
    try:
        return json.loads(source, parse_constant=_refuse_constant)
    except RecursionError:
        raise _wrong(kind, "nested too deeply") from None
    except ValueError as error:
        raise _wrong(kind, "not valid JSON", found=str(error)) from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _require_schema(schema: object) -> None:
    if not isinstance(schema, dict | bool):
        raise _wrong("json_schema", "not a schema", found=type(schema).__name__, expected="an object, true or false")


def _require_choices(choices: object) -> None:
    if not isinstance(choices, list) or not choices:
        raise _wrong("choice", "not a list of texts", expected="one text or more")
    if len(choices) > MAX_CHOICES:
        raise _wrong("choice", "too many texts", found=len(choices), expected=f"at most {MAX_CHOICES}")
    for index, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            raise _wrong("choice", f"number {index} is not a text that is not empty", found=repr(choice)[:80])


def _require_markup(markup: object, depth: int) -> None:
    if depth > _MAX_MARKUP_DEPTH:
        raise _wrong("markup", "nested too deeply", expected=f"at most {_MAX_MARKUP_DEPTH} levels")
    match markup:
        case ["text" | "until", str(text)] if text:
            return
        case ["token", int(token)] if token >= 0 and not isinstance(token, bool):
            return
        case ["json", dict() | bool()] | ["free"]:
            return
        case ["all" | "any", _, *_] | ["maybe", _] | ["many", _] | ["many", _, _]:
            for part in markup[1:]:
                _require_markup(part, depth + 1)
        case _:
            raise _wrong("markup", "not a piece of markup", found=repr(markup)[:80])


def _wrong(
    kind: str, what: str, *, found: object = None, expected: object = None, fix: str | None = None
) -> AdmissionError:
    return AdmissionError(what, where=f"constraint {kind}", found=found, expected=expected, fix=fix)
