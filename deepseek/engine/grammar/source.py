"""What llguidance is asked to compile for each kind of constraint.

Its input is a JSON document that holds a Lark grammar or a JSON schema. Schemas are rewritten first (see
`schema`), regular expressions too (`regex`). A Lark grammar is the user's own, but for two things: a
schema in it is rewritten like any other, and it cannot name the model's control tokens, which no text may produce.
Only markup can, which comes from this program alone.
"""

from __future__ import annotations

import json
import re
from typing import Any

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.regex import full_match, literal
from deepseek.engine.grammar.schema import rewrite

# White space between the parts of JSON: none, one space, or a line break and its indentation. Unbounded, a model that
# has lost its way fills the whole answer with it. Escapes: \\uXXXX is left out, for it lets a name that is already
# taken be spelled a second way.
JSON_STYLE = {
    "whitespace_flexible": False,
    "whitespace_pattern": r"\x20|\x0A\x20{0,40}",
    "json_allowed_escapes": 'nrbtf\\"',
}

# A string, an expression, a comment, or what has to be looked at.
_LARK = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|#[^\n]*|/(?:[^/\\\n]|\\.)+/|(?P<token><)|(?P<json>%json\b)', re.DOTALL
)


def grammar_source(constraint: Constraint) -> str:
    """The input of llguidance, as JSON. Raises AdmissionError for what cannot be enforced."""
    grammar: dict[str, Any]
    match constraint.kind:
        case "json_schema":
            grammar = {"json_schema": _styled(rewrite(constraint.source))}
        case "json_object":
            grammar = {"json_schema": _styled(rewrite('{"type":"object"}'))}
        case "regex":
            grammar = _from_expression(full_match(constraint.source, where="constraint regex"))
        case "choice":
            grammar = _from_expression("|".join(map(literal, constraint.choices)))
        case "lark":
            grammar = {"lark_grammar": _checked_lark(constraint.source)}
        case "markup":
            grammar = {"lark_grammar": _markup_grammar(json.loads(constraint.source))}
    return json.dumps({"grammars": [grammar]})


def _styled(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": JSON_STYLE}


def _from_expression(expression: str) -> dict[str, Any]:
    return {"lark_grammar": f"start: TEXT\nTEXT: /{expression}/"}


def _markup_grammar(markup: list[Any]) -> str:
    """Lark for a markup tree. Control tokens go by their ids: they stand for no bytes, so nothing else can ask for them."""
    rules: list[str] = []

    def write(node: list[Any]) -> str:
        match node:
            case ["text", text]:
                return f"/{literal(text)}/"
            case ["token", token]:
                return f"<[{token}]>"
            case ["free"]:
                return "FREE?"
            case ["until", text]:
                return f"/(?s:.*){literal(text)}/"
            case ["json", schema]:
                return rule("%json " + json.dumps(_styled(rewrite(json.dumps(schema)))))
            case ["all", *parts]:
                return "(" + " ".join(map(write, parts)) + ")"
            case ["any", *parts]:
                return "(" + " | ".join(map(write, parts)) + ")"
            case ["maybe", part]:
                return f"{rule(write(part))}?"
            case ["many", part, *separator]:
                repeated = rule(write(part))
                return f"({repeated} ({' '.join(map(write, separator))} {repeated})*)"
            case _:
                raise AdmissionError("not a piece of markup", where="constraint markup", found=repr(node)[:80])

    def rule(body: str) -> str:
        rules.append(f"rule_{len(rules)}: {body}")
        return f"rule_{len(rules) - 1}"

    start = write(markup)
    return "\n".join([f"start: {start}", *rules, "FREE: /(?s:.+)/"])


def _checked_lark(source: str) -> str:
    written, position = [], 0
    while found := _LARK.search(source, position):
        written.append(source[position : found.start()])
        position = found.end()
        if found["token"]:
            line = source.count("\n", 0, found.start()) + 1
            raise AdmissionError(
                "a grammar cannot name tokens, only text",
                where=f"constraint lark, line {line}",
                found=source[found.start() : found.start() + 20].split("\n")[0],
                fix="write the text between quotes",
            )
        if found["json"]:
            schema, position = _json_at(source, position)
            written.append("%json " + json.dumps(_styled(rewrite(json.dumps(schema)))))
        else:
            written.append(found[0])
    return "".join([*written, source[position:]])


def _json_at(source: str, position: int) -> tuple[Any, int]:
    """The schema at a position of a Lark grammar, and where it ends."""
    while position < len(source) and source[position].isspace():
        position += 1
    try:
        schema, end = json.JSONDecoder().raw_decode(source, position)
    except (ValueError, RecursionError):
        schema, end = None, position
    if not isinstance(schema, dict | bool):
        found = source[position : position + 20]
        raise AdmissionError("%json is not followed by a schema", where="constraint lark", found=repr(found))
    return schema, end
