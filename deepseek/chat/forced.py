"""Constraints that make an answer call a tool: the call's form and its arguments' schema, as markup for the grammar.

Control tokens are named by their ids, so a forced call is exactly what `deepseek.chat.markup` reads as one. For DSML,
whose values are raw text, each property is a parameter: one that may only be a string is free text, an enumerated
string one of its values, everything else JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek.chat.dsml import BLOCKS, DSML
from deepseek.chat.markup import THINK_END
from deepseek.chat.scanner import Marker
from deepseek.chat.tool_tokens import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, FENCE, SEPARATOR
from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import NamedTool, ToolChoice, ToolSpec

Tree = list[Any]

_BEFORE_DSML = "\n\n<"


def tool_constraint(
    form: str,
    token_ids: Mapping[str, int],
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    parallel: bool,
    thinking: bool,
    bind: bool = False,
) -> Constraint | None:
    """What an answer must match so that the choice of tools is kept; None where nothing has to be enforced.

    form: the name of the model's format. token_ids: ids of the tokenizer's control tokens, by literal. parallel: whether
    more than one call is allowed. thinking: whether the prompt opened thinking, which then ends before the call.
    bind: with the choice "auto" too, a call has to be one of the tools', with arguments that fit; text stays free, and
    whether there is a call is the model's choice until it samples the token that opens one.
    Raises AdmissionError for a tool that is not among `tools`, and where the model's format cannot be enforced.
    """
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise AdmissionError("no such tool", where="tool_choice", found=repr(choice.name), expected="one of tools")
    if choice == "none" or (choice == "auto" and ((parallel and not bind) or not tools)):
        return None
    if not tools:
        raise AdmissionError("there is no tool to call", where="tool_choice", found=repr(choice), fix="send tools")
    if form == "none":
        if choice == "auto" and parallel:
            return None  # it never calls, so nothing has to be bound
        raise AdmissionError(
            "this model has no format for tool calls, so none can be forced",
            where="tool_choice",
            expected="auto or none",
        )
    tokens = _Tokens(token_ids)
    dsml = form in ("deepseek-v3.2", "deepseek-v4")
    if choice == "auto" and (DSML if dsml else CALLS_BEGIN) not in token_ids:
        return None  # only a token can tell where the text ends and the call begins
    if dsml:
        calls = _dsml_calls(tokens, BLOCKS[1] if form == "deepseek-v3.2" else BLOCKS[0], tools, parallel)
    else:
        calls = _token_calls(tokens, tools, parallel, fenced=form == "deepseek-v3")
    if choice == "auto":
        # A tag of DSML begins with characters, which free text would swallow.
        called = ["all", ["until", _BEFORE_DSML], *calls[2:]] if dsml else ["all", ["free"], calls]
        calls = ["any", ["free"], called]
    if thinking and THINK_END in token_ids:
        calls = ["all", ["free"], tokens.marker(THINK_END), calls]
    return Constraint.markup(calls)


class _Tokens:
    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids

    def marker(self, literal: str) -> Tree:
        """The literal, each control token in it by its id and the rest as text."""
        tree: Tree = ["all"]
        at = 0
        for begin in Marker.of(literal, self._ids).controls:
            token = max((t for t in self._ids if literal.startswith(t, begin)), key=len)
            if begin > at:
                tree.append(["text", literal[at:begin]])
            tree.append(["token", self._ids[token]])
            at = begin + len(token)
        if at < len(literal):
            tree.append(["text", literal[at:]])
        return tree


def _token_calls(tokens: _Tokens, tools: Sequence[ToolSpec], parallel: bool, *, fenced: bool) -> Tree:
    calls: Tree = ["any"]
    for tool in tools:
        arguments: Tree = ["json", _object_schema(tool)]
        if fenced:
            head: Tree = ["all", ["text", "function"], tokens.marker(SEPARATOR)]
            head.append(["text", f"{tool.name}\n{FENCE}json\n"])
            arguments = ["all", arguments, ["text", f"\n{FENCE}"]]
        else:
            head = ["all", ["text", tool.name], tokens.marker(SEPARATOR)]
        calls.append(["all", tokens.marker(CALL_BEGIN), head, arguments, tokens.marker(CALL_END)])
    body: Tree = calls
    if parallel:
        body = ["many", calls, ["text", "\n"]] if fenced else ["many", calls]
    return ["all", tokens.marker(CALLS_BEGIN), body, tokens.marker(CALLS_END)]


def _dsml_calls(tokens: _Tokens, block: str, tools: Sequence[ToolSpec], parallel: bool) -> Tree:
    if tokens.marker(DSML) == ["all", ["text", DSML]]:
        raise AdmissionError(
            "a call cannot be forced: the tokenizer has no token for its tags",
            where="tool_choice",
            expected="auto or none",
        )
    calls: Tree = ["any"]
    for tool in tools:
        call: Tree = ["all", tokens.marker(f'<{DSML}invoke name="{tool.name}">'), ["text", "\n"]]
        call += _parameters(tokens, _object_schema(tool))
        call.append(tokens.marker(f"</{DSML}invoke>"))
        calls.append(call)
    body: Tree = ["many", calls, ["text", "\n"]] if parallel else calls
    opened, closed = tokens.marker(f"<{DSML}{block}>"), tokens.marker(f"</{DSML}{block}>")
    # Its "<" is written with the line breaks before it: up to the token, all of it is text.
    return ["all", ["text", _BEFORE_DSML], *opened[2:], ["text", "\n"], body, ["text", "\n"], closed]


def _parameters(tokens: _Tokens, schema: Mapping[str, Any]) -> list[Tree]:
    """One tree for each property, in their order; only those that are named are allowed."""
    properties = schema.get("properties", {})
    unsupported = sorted({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties"} & schema.keys())
    if unsupported or not isinstance(properties, Mapping):
        raise AdmissionError(
            "cannot be enforced in this model's format of calls",
            where="tools",
            found=", ".join(unsupported) or "properties of no object",
            expected="an object schema with properties alone",
            fix="put what the schema composes into its properties",
        )
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    trees: list[Tree] = []
    for name, given in properties.items():
        value: Any = {**given, **definitions} if isinstance(given, Mapping) and definitions else given
        tree: Tree = ["all", _parameter(tokens, name, value), ["text", "\n"]]
        trees.append(tree if name in schema.get("required", ()) else ["maybe", tree])
    return trees


def _parameter(tokens: _Tokens, name: str, schema: Any) -> Tree:
    def tag(is_string: bool) -> Tree:
        attribute = "true" if is_string else "false"
        return tokens.marker(f'<{DSML}parameter name="{name}" string="{attribute}">')

    end = tokens.marker(f"</{DSML}parameter>")
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        allowed = [schema["const"]] if "const" in schema else schema.get("enum")
        if allowed is not None:
            texts = [["text", value] for value in allowed if isinstance(value, str) and value]
            return ["all", tag(True), ["any", *texts], end] if texts else ["all", tag(True), end]
        checked = sorted({"pattern", "format", "minLength", "maxLength"} & schema.keys())
        if checked:
            raise AdmissionError(
                "cannot be enforced in this model's format of calls", where=f"tools: {name}", found=", ".join(checked)
            )
        # "</" belongs to the end's tag, and only the token behind it says that the value is over.
        return ["all", tag(True), ["until", "</"], *end[2:]]
    return ["all", tag(False), ["json", schema], end]


def _object_schema(tool: ToolSpec) -> Mapping[str, Any]:
    """The tool's parameters; where they say nothing of it, an object all the same."""
    return (
        tool.parameters
        if "type" in tool.parameters or "$ref" in tool.parameters
        else {
            "type": "object",
            **tool.parameters,
        }
    )
