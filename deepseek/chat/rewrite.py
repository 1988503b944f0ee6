"""Rewrites a template's parse tree before it is compiled: literals are marked, and work reports to the budget.

The filters `_spend`, `_operand` and `_concat` that it inserts are the sandbox's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

from deepseek.chat.budget import CHARS_A_UNIT
from deepseek.chat.marks import Marks, marked

_EQUALITY_TESTS = {"eq", "equalto", "==", "ne", "!=", "in"}


class Rewriter(NodeTransformer):
    """Marks the literals and inserts the budget's toll gates."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.TemplateData(self._mark(node.data), lineno=node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return nodes.Const(self._mark(node.value), lineno=node.lineno) if isinstance(node.value, str) else node

    def _mark(self, text: str) -> str:
        if marked(text):
            raise SecurityError("the template contains a lone surrogate, which is not a character")
        return self._marks.mark(text)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._with_toll(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_toll(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._with_toll(node)

    def _with_toll(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        toll = _toll(node.body)
        self.generic_visit(node)
        node.body.insert(0, toll)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filter(node.filter, "_spend")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None:
            node.node = _filter(node.node, "_spend")
        return _filter(node, "_spend")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_operand")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_operand")
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if node.name in _EQUALITY_TESTS:
            node.node = _filter(node.node, "_operand")
            node.args = [_filter(argument, "_operand") for argument in node.args]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_spend") if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._spend_container(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._spend_container(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._spend_container(node)

    def _spend_container(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_spend")


def tick(units: int) -> None:
    """Compiled into loops and macros by `_toll`; the environment's `call` pays the units instead of calling it."""


def _toll(body: Iterable[nodes.Node]) -> nodes.Node:
    fixed_text = sum(len(data.data) for statement in body for data in _template_data(statement))
    units = nodes.Const(1 + fixed_text // CHARS_A_UNIT)
    return nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [units], [], None, None))


def _template_data(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=getattr(node, "lineno", 1))
