"""Arithmetic as people write it, read into a small tree: an operator-precedence parser over a bounded text.

    sum     = product (("+" | "-") product)*
    product = unary (("*" | "/" | "//" | "%") unary)*         % with an operand behind it is the remainder
    unary   = ("+" | "-") unary | power
    power   = postfix ("**" unary)?                           to the right, and closer than a sign before it: -2**2 is -4
    postfix = atom ("!" | "%")*                               % with none is "per cent": 5% is 5 / 100
    atom    = number | name | name "(" sum ("," sum)* ")" | "(" sum ")" | "√" postfix

Besides Python's signs: × · ÷ − ^ √ π ², full-width characters, ``x`` between numbers, thousands separated by commas
outside a function's arguments. Nothing here computes; the bounds are on length, nodes and depth.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from deepseek.agent.execution.errors import ToolRetry

MAX_CHARS = 1000
MAX_NODES = 200
MAX_DEPTH = 40
MAX_DIGITS = 1024
MAX_EXPONENT = 1024

Value = int | Fraction | float


@dataclass(frozen=True, slots=True)
class Number:
    value: Value


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function or an operator applied: `+ - * / // % **` with two arguments, `neg ! percent` with one."""

    function: str
    arguments: tuple[Node, ...]


Node = Number | Name | Call

_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "✖": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/", "−": "-", "–": "-", "—": "-",
        "^": "**", "π": "pi", "τ": "tau", "“": " ", "”": " ", "。": " ", "，": ",", "（": "(", "）": ")", "【": "(", "】": ")",
    }
)  # fmt: skip
_RAISED = {character: digit for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_RAISED_RUN = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])")
_BASE = re.compile(r"0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+")
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
_DECIMAL = r"(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    rf"\s*(?:(?P<base>{_BASE.pattern})|(?P<grouped>{_GROUPED})|(?P<number>{_DECIMAL})"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>\*\*|//|[-+*/%!(),√=]))"
)


def parse(text: str) -> Node:
    """The tree of an expression. Raises ToolRetry for what is none, or is too long or too deep."""
    if len(text) > MAX_CHARS:
        raise ToolRetry("the expression is too long", found=f"{len(text)} characters", expected=f"at most {MAX_CHARS}")
    return _Parser(_plain(text)).whole()


def _plain(text: str) -> str:
    text = _RAISED_RUN.sub(_power_of, text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    return text if _BASE.search(text) else _TIMES.sub("*", text)


def _power_of(run: re.Match[str]) -> str:
    digits = "".join(str(_RAISED[character]) for character in run[0].lstrip("⁻"))
    return f"**-{digits}" if run[0][0] == "⁻" else f"**{digits}"


class _Parser:
    """Recursive descent; `depth` counts the nesting, so that Python's own stack never ends first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._nodes = 0
        self._depth = 0
        self._in_call = 0
        self._kind, self._token = "", ""
        self._advance()

    def whole(self) -> Node:
        if self._kind == "end":
            raise ToolRetry("the expression is empty")
        node = self._sum()
        if self._token == "=":  # as in "2 + 2 ="
            self._advance()
        if self._kind != "end":
            raise self._unexpected()
        return node

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            rest = self._text[self._at :].strip()
            if rest:
                raise ToolRetry("not an arithmetic expression", found=repr(rest[:40]))
            self._kind, self._token = "end", ""
            return
        kind = str(found.lastgroup)
        if kind == "grouped" and self._in_call:  # there a comma separates arguments
            found = re.compile(_DECIMAL).match(self._text, found.start("grouped"))
            assert found is not None
            self._kind, self._token = "number", found[0]
        else:
            self._kind, self._token = kind, found[kind]
        self._at = found.end()

    def _unexpected(self) -> ToolRetry:
        what = "the expression ends too early" if self._kind == "end" else f"unexpected {self._token[:40]!r}"
        return ToolRetry(what)

    def _node(self, node: Node) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ToolRetry("the expression has too many parts", expected=f"at most {MAX_NODES}")
        return node

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolRetry("the expression is nested too deeply", expected=f"at most {MAX_DEPTH} levels")

    def _sum(self) -> Node:
        self._deeper()
        left = self._product()
        while self._token in ("+", "-"):
            sign = self._token
            self._advance()
            left = self._node(Call(sign, (left, self._product())))
        self._depth -= 1
        return left

    def _product(self) -> Node:
        left = self._unary()
        while self._token in ("*", "/", "//", "%"):
            sign = self._token
            self._advance()
            left = self._node(Call(sign, (left, self._unary())))
        return left

    def _unary(self) -> Node:
        if self._token not in ("+", "-"):
            return self._power()
        self._deeper()
        sign = self._token
        self._advance()
        operand = self._unary()
        self._depth -= 1
        return self._node(Call("neg", (operand,))) if sign == "-" else operand

    def _power(self) -> Node:
        base = self._postfix()
        if self._token != "**":
            return base
        self._deeper()
        self._advance()
        exponent = self._unary()
        self._depth -= 1
        return self._node(Call("**", (base, exponent)))

    def _postfix(self) -> Node:
        node = self._atom()
        while self._token == "!" or (self._token == "%" and not self._operand_follows()):
            node = self._node(Call("!" if self._token == "!" else "percent", (node,)))
            self._advance()
        return node

    def _operand_follows(self) -> bool:
        found = _TOKEN.match(self._text, self._at)
        return found is not None and (found.lastgroup != "sign" or found["sign"] in ("(", "√"))

    def _atom(self) -> Node:
        kind, token = self._kind, self._token
        if kind in ("number", "grouped", "base"):
            self._advance()
            return self._node(Number(_number(token, kind)))
        if kind == "name":
            self._advance()
            return self._call(token) if self._token == "(" else self._node(Name(token))
        if token == "√":
            self._deeper()
            self._advance()
            operand = self._postfix()
            self._depth -= 1
            return self._node(Call("sqrt", (operand,)))
        if token != "(":
            raise self._unexpected()
        in_call, self._in_call = self._in_call, 0
        self._advance()
        node = self._sum()
        self._in_call = in_call
        self._close()
        return node

    def _call(self, function: str) -> Node:
        self._in_call += 1
        self._advance()
        arguments = [self._sum()]
        while self._token == ",":
            self._advance()
            arguments.append(self._sum())
        self._in_call -= 1
        self._close()
        return self._node(Call(function, tuple(arguments)))

    def _close(self) -> None:
        if self._token != ")":
            raise self._unexpected() if self._kind != "end" else ToolRetry("a parenthesis is not closed")
        self._advance()


def _number(token: str, kind: str) -> Value:
    digits = token.replace("_", "").replace(",", "")
    if len(digits) > MAX_DIGITS:
        raise ToolRetry("a number is too long", found=f"{len(digits)} digits", expected=f"at most {MAX_DIGITS}")
    if kind == "base":
        return int(digits, 0)
    mantissa, _, exponent = digits.lower().partition("e")
    if exponent and (len(exponent) > 6 or abs(int(exponent)) > MAX_EXPONENT):
        raise ToolRetry("a number is out of range", found=token[:40], expected=f"an exponent within ±{MAX_EXPONENT}")
    if exponent or "." in mantissa:
        exact = Fraction(Decimal(digits))
        return exact.numerator if exact.denominator == 1 else exact
    return int(mantissa)
