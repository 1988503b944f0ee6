"""Regular expressions as Python understands them, rewritten for the grammar library.

Whoever validates an answer does it with Python's `re` (so does `jsonschema`), while llguidance reads the syntax of
Rust's `regex`. The two agree on most expressions and differ quietly on some: `\\W` (ASCII or Unicode), `[[a]b]`,
`[a&&b]`, `$` before a line break, `^` in one branch only. So an expression is parsed by Python's own parser and written
anew, with every class spelled out as ranges and every anchor resolved. What comes out matches a subset of what Python
matches, and is the same wherever that costs nothing: `\\d` and `\\w` are ASCII, their complements leave out whatever
Python may count in.

What no finite automaton can do, or this rewriting does not, is refused by name: look-around, back references,
word boundaries, anchors in the middle.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from deepseek.core.errors import AdmissionError

# The parser behind `re.compile`. It is private, but has had this form since Python 1.5; the tests hold it to that.
_parser: Any = importlib.import_module("re._parser")
_OP: Any = importlib.import_module("re._constants")

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included, ascending and apart

_LAST = 0x10FFFF
_SURROGATES = ((0xD800, 0xDFFF),)
# Characters that a JSON string can only hold as \\uXXXX, which the grammar of JSON leaves out (see grammar_json).
_NOT_IN_JSON = ((0x00, 0x07), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0x7F))
_ANYTHING = "(?s:.*)"
# The characters outside ASCII that ignore-case matching equates with ASCII letters: İ, ı, ſ and the Kelvin sign.
_FOLDED_INTO_ASCII = ((0x130, 0x131), (0x17F, 0x17F), (0x212A, 0x212A))
# The complement of \\w has hundreds of ranges, most of them in rare scripts; up to here it is kept exactly.
_NON_WORD_LIMIT = 0x33FF

_NAMES = {
    "ASSERT": "look-ahead or look-behind",
    "ASSERT_NOT": "look-ahead or look-behind",
    "GROUPREF": "a back reference",
    "GROUPREF_EXISTS": "a conditional group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
    "AT_BOUNDARY": "a word boundary",
    "AT_NON_BOUNDARY": "a word boundary",
}
_BEGINNINGS = (_OP.AT_BEGINNING, _OP.AT_BEGINNING_STRING)
_ENDS = (_OP.AT_END, _OP.AT_END_STRING)


def full_match(pattern: str, *, where: str) -> str:
    """An expression for whole texts that `re.fullmatch(pattern, text)` accepts. Raises AdmissionError."""
    return _rewrite(pattern, where, pad="", in_json=False)


def search_in_json(pattern: str, *, where: str) -> str:
    """An expression for whole strings that `re.search(pattern, text)` accepts, of characters that JSON can spell.

    It begins with "^" and ends with "$", so that it means the same to whoever searches and to whoever matches.
    """
    return f"^{_rewrite(pattern, where, pad=_ANYTHING, in_json=True)}$"


def literal(text: str) -> str:
    """An expression for exactly this text."""
    return "".join(_class(((ord(c), ord(c)),)) for c in text)


def unspellable(text: str) -> bool:
    """Whether the grammar of JSON has no spelling for the text: it holds a control character without a short escape."""
    return any(low <= ord(c) <= high for c in text for low, high in (*_NOT_IN_JSON, *_SURROGATES))


def _rewrite(pattern: str, where: str, *, pad: str, in_json: bool) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FutureWarning: possible nested set
            re.compile(pattern)
            parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise AdmissionError(
            "not a regular expression that Python understands", where=where, found=f"{pattern[:80]!r}: {error}"
        ) from None
    return _Writer(pattern, where, pad, in_json).group(parsed, parsed.state.flags, left=True, right=True)


class _Writer:
    """`left` and `right` say whether a node stands at the edge of the whole expression: an anchor may be there, and
    where there is none the pad goes."""

    def __init__(self, pattern: str, where: str, pad: str, in_json: bool) -> None:
        self._pattern = pattern
        self._where = where
        self._pad = pad
        self._in_json = in_json

    def group(self, nodes: Any, flags: int, *, left: bool, right: bool) -> str:
        return f"(?:{self._sequence(list(nodes), flags, left=left, right=right)})"

    def _sequence(self, nodes: list[Any], flags: int, *, left: bool, right: bool) -> str:
        begins = ends = False
        while left and nodes and nodes[0][0] is _OP.AT and nodes[0][1] in _BEGINNINGS:
            self._refuse_multiline(nodes.pop(0)[1], flags)
            begins = True
        while right and nodes and nodes[-1][0] is _OP.AT and nodes[-1][1] in _ENDS:
            self._refuse_multiline(nodes.pop()[1], flags)
            ends = True
        written = []
        for index, node in enumerate(nodes):
            at_left = left and not begins and index == 0
            at_right = right and not ends and index == len(nodes) - 1
            written.append(self._node(node, flags, left=at_left, right=at_right))
        before = self._pad if left and not begins and not (nodes and _has_edges(nodes[0])) else ""
        after = self._pad if right and not ends and not (nodes and _has_edges(nodes[-1])) else ""
        return "".join([before, *written, after])

    def _node(self, node: Any, flags: int, *, left: bool, right: bool) -> str:
        operation, value = node
        if operation is _OP.BRANCH:
            branches = (self._sequence(list(branch), flags, left=left, right=right) for branch in value[1])
            return f"(?:{'|'.join(branches)})"
        if operation is _OP.SUBPATTERN:
            _, added, removed, inner = value
            return self.group(inner, (flags | added) & ~removed, left=left, right=right)
        if operation in (_OP.MAX_REPEAT, _OP.MIN_REPEAT):
            low, high, inner = value
            bounds = f"{{{low},{'' if high is _OP.MAXREPEAT else high}}}"
            return self.group(inner, flags, left=False, right=False) + bounds
        if operation is _OP.LITERAL:
            return self._characters([node], flags, negated=False)
        if operation is _OP.NOT_LITERAL:
            return self._characters([(_OP.LITERAL, value)], flags, negated=True)
        if operation is _OP.ANY:
            return self._class(_complement(()) if flags & re.DOTALL else _complement(((10, 10),)))
        if operation is _OP.IN:
            negated = value[0][0] is _OP.NEGATE
            return self._characters(value[1:] if negated else value, flags, negated=negated)
        raise self._refusal(value if operation is _OP.AT else operation)

    def _characters(self, items: Sequence[Any], flags: int, *, negated: bool) -> str:
        """A class. For a negated one the items are taken as wide as Python may mean them, else as narrow."""
        ranges = _union(
            r for item in items for r in _item_ranges(item, wide=negated, ascii_only=bool(flags & re.ASCII))
        )
        if flags & re.IGNORECASE:
            if negated and ranges and ranges[-1][1] > 0x7F:
                raise self._refusal("ignore-case matching of letters outside ASCII in a negated class")
            ranges = _union((*ranges, *_other_case(ranges), *(_FOLDED_INTO_ASCII if negated else ())))
        return self._class(_complement(ranges) if negated else ranges)

    def _class(self, ranges: Ranges) -> str:
        kept = _without(ranges, _union((*_SURROGATES, *(_NOT_IN_JSON if self._in_json else ()))))
        if not kept:
            raise self._refusal("a class without any character that may be used")
        return _class(kept)

    def _refuse_multiline(self, anchor: Any, flags: int) -> None:
        if flags & re.MULTILINE and anchor in (_OP.AT_BEGINNING, _OP.AT_END):
            raise self._refusal("an anchor in multi-line mode")

    def _refusal(self, construct: Any) -> AdmissionError:
        name = _NAMES.get(str(construct))
        if name is None:
            name = "an anchor in the middle" if str(construct).startswith("AT_") else str(construct)
        return AdmissionError(
            "this regular expression cannot be enforced", where=self._where, found=f"{name} in {self._pattern[:80]!r}"
        )


def _has_edges(node: Any) -> bool:
    """Whether the node looks after the edges by itself: a group or an alternative may hold anchors."""
    return node[0] in (_OP.BRANCH, _OP.SUBPATTERN)


def _item_ranges(item: Any, *, wide: bool, ascii_only: bool) -> Iterable[tuple[int, int]]:
    operation, value = item
    if operation is _OP.LITERAL:
        return ((value, value),)
    if operation is _OP.RANGE:
        return (value,)
    return _category(str(value).removeprefix("CATEGORY_"), wide, ascii_only)


@lru_cache
def _category(name: str, wide: bool, ascii_only: bool) -> Ranges:
    """The characters of \\d, \\w, \\s or a complement, without any that Python may count out; or, if wide, with all
    that it may count in."""
    if name.startswith("NOT_"):
        ranges = _complement(_category(name.removeprefix("NOT_"), not wide, ascii_only))
        return ranges if wide or ascii_only or name != "NOT_WORD" else _without(ranges, ((_NON_WORD_LIMIT + 1, _LAST),))
    kind = {"DIGIT": r"\d+", "SPACE": r"\s+", "WORD": r"\w+"}[name]
    exact = wide and not ascii_only
    text = "".join(map(chr, range((_LAST if exact else 0x7F) + 1)))
    return tuple((found.start(), found.end() - 1) for found in re.finditer(kind, text, 0 if exact else re.ASCII))


def _other_case(ranges: Ranges) -> Ranges:
    letters = [code for low, high in ranges for code in range(low, min(high, 0x7F) + 1) if chr(code).isalpha()]
    return tuple((code ^ 0x20, code ^ 0x20) for code in letters)


def _union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: Ranges) -> Ranges:
    gaps, start = [], 0
    for low, high in ranges:
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, _LAST)) if start <= _LAST else tuple(gaps)


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    return _complement(_union((*_complement(ranges), *removed)))


def _class(ranges: Ranges) -> str:
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _character(ranges[0][0])
    return (
        "["
        + "".join(_character(low) if low == high else f"{_character(low)}-{_character(high)}" for low, high in ranges)
        + "]"
    )


def _character(code: int) -> str:
    character = chr(code)
    return character if code < 0x80 and character.isalnum() else f"\\x{{{code:X}}}"
