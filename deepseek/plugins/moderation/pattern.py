r"""Patterns to automata: regular expressions that are regular, so that looking for them takes time linear in the text.

Taken are characters, `.`, classes `[a-z]` and `\d \w \s \D \W \S`, groups, `|`, `? * + {m,n}`, and `\b` at the beginning and
end. What needs to go back and try again (references, looking ahead and behind) is refused, as are `^` and `$`: a stream has no
end yet. A pattern becomes a non-deterministic automaton (Thompson, Regular Expression Search Algorithm, 1968).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from deepseek.core.errors import ConfigError
from deepseek.plugins.moderation.folding import folded, is_word

MAX_PATTERN_CHARS = 2000
MAX_REPEATS = 200
MAX_STATES = 4000
"""Of one pattern."""
MAX_DEPTH = 50

_CLASSES = {"d", "D", "w", "W", "s", "S"}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}


class CharClass:
    """A set of characters, as `re` writes it; asked one character at a time."""

    __slots__ = ("_known", "has", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        compiled = re.compile(pattern, re.IGNORECASE)
        self._known: dict[str, bool] = {}

        def has(char: str) -> bool:
            found = self._known.get(char)
            if found is None:
                found = self._known[char] = compiled.fullmatch(char) is not None
            return found

        self.has: Callable[[str], bool] = has


@dataclass(slots=True)
class Node:
    """A state while it is built. on: where characters lead; then: where nothing leads; rules: what ends here."""

    on: dict[str, Node] = field(default_factory=dict)
    classes: list[tuple[CharClass, Node]] = field(default_factory=list)
    then: list[Node] = field(default_factory=list)
    ends: list[tuple[int, bool]] = field(default_factory=list)  # rule, whether a word must end here


@dataclass(frozen=True, slots=True)
class Pattern:
    """attach: builds it from a node, and gives the node where it ends. begins, ends: whether it must begin and end where a
    word does."""

    attach: Callable[[Node], Node]
    begins: bool
    ends: bool


def of_term(term: str) -> Pattern:
    """A word or several, as written; spaces stand for any, and where it begins and ends like a word of letters, it must do so in
    the text. Raises ConfigError."""
    pieces = [folded(piece).replace("\0", "") for piece in term.split()]
    if not pieces or not all(pieces):
        raise ConfigError("is empty", where="terms", found=repr(term)[:40], expected="a word")

    def attach(node: Node) -> Node:
        for at, piece in enumerate(pieces):
            if at:
                node = _step(node, _SPACE)
                node.classes.append((_SPACE, node))
            for char in piece:
                node = node.on.setdefault(char, Node())
        return node

    return Pattern(attach, is_word(pieces[0][0]), is_word(pieces[-1][-1]))


def of_regex(text: str) -> Pattern:
    """Raises ConfigError for what is none, or not of the kind that is taken."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_PATTERN_CHARS:
        raise ConfigError("not a pattern", where="patterns", expected=f"1 to {MAX_PATTERN_CHARS} characters")
    begins, ends = text.startswith(r"\b"), re.search(r"(?<!\\)(?:\\\\)*\\b$", text) is not None
    inner = text[2 if begins else 0 : -2 if ends and len(text) > 2 else None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # [[a], [a--b]: what they mean is to change
            re.compile(text)
        tree = _Parser(inner).whole()
        size = _size(tree)
    except (re.error, _Unfit, OverflowError, FutureWarning) as error:
        raise ConfigError("not a pattern of the kind that is taken", where=text[:80], found=str(error)) from None
    if size > MAX_STATES:
        raise ConfigError(
            "the pattern is too large", where=text[:80], found=size, expected=f"at most {MAX_STATES} states"
        )
    if _may_be_empty(tree):
        raise ConfigError("the pattern fits the empty text", where=text[:80], fix="use + instead of *")
    return Pattern(lambda node: _build(tree, _then(node)), begins, ends)


class _Unfit(Exception):
    """The pattern has something in it that is not taken."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """kind: char, class, all (of parts in a row), any (one of parts), repeat."""

    kind: str
    text: str = ""
    parts: tuple[_Tree, ...] = ()
    least: int = 0
    most: int | None = 0


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> _Tree:
        tree = self._either()
        if self._at < len(self._text):
            raise _Unfit(f"{self._text[self._at]!r} at {self._at}")
        return tree

    def _either(self) -> _Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Unfit(f"groups deeper than {MAX_DEPTH}")
        parts = [self._row()]
        while self._take("|"):
            parts.append(self._row())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else _Tree("any", parts=tuple(parts))

    def _row(self) -> _Tree:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._one()))
        return _Tree("all", parts=tuple(parts))

    def _repeated(self, tree: _Tree) -> _Tree:
        while True:
            if self._take("?"):
                least, most = 0, 1
            elif self._take("*"):
                least, most = 0, None
            elif self._take("+"):
                least, most = 1, None
            elif found := re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}").match(self._text, self._at):
                self._at = found.end()
                least = int(found[1])
                most = least if found[2] is None else int(found[3]) if found[3] else None
            else:
                return tree
            if max(least, most or 0) > MAX_REPEATS:
                raise _Unfit(f"more than {MAX_REPEATS} repeats")
            self._take("?")  # lazy: the longest is found in any case
            tree = _Tree("repeat", parts=(tree,), least=least, most=most)

    def _one(self) -> _Tree:
        char = self._text[self._at]
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        self._at += 1
        if char == ".":
            return _Tree("class", r"[^\n]")
        if char in "^$":
            raise _Unfit(f"{char}, which a stream cannot be asked")
        return self._escape() if char == "\\" else _Tree("char", char)

    def _group(self) -> _Tree:
        self._at += 1
        if self._take("?") and not self._take(":"):
            raise _Unfit("a group that is more than a group: (?")
        tree = self._either()
        if not self._take(")"):
            raise _Unfit("a ( that is not closed")
        return tree

    def _class(self) -> _Tree:
        end = self._at + 1
        if self._text.startswith("^", end):
            end += 1
        if self._text.startswith("]", end):
            end += 1
        while end < len(self._text) and self._text[end] != "]":
            end += 2 if self._text[end] == "\\" else 1
        text = self._text[self._at : end + 1]
        self._at = end + 1
        return _Tree("class", "".join(_class_char(char) for char in text))

    def _escape(self) -> _Tree:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char in _CLASSES:
            return _Tree("class", f"[\\{char}]")
        if char in _ESCAPED:
            return _Tree("char", _ESCAPED[char])
        if found := re.compile(r"(?<=u)[0-9a-fA-F]{4}|(?<=x)[0-9a-fA-F]{2}").match(self._text, self._at):
            self._at = found.end()
            return _Tree("char", chr(int(found[0], 16)))
        if not char or char.isalnum():
            raise _Unfit(f"\\{char}")
        return _Tree("char", char)

    def _take(self, char: str) -> bool:
        taken = self._text.startswith(char, self._at)
        self._at += taken
        return taken


def _class_char(char: str) -> str:
    """Escapes of ASCII stay as they are: a capital letter means the contrary."""
    form = folded(char)
    return char if char.isascii() or form == "\0" else form


_SPACE = CharClass(r"[\s]")


def _size(tree: _Tree) -> int:
    inner = sum(map(_size, tree.parts))
    if tree.kind == "repeat":
        return 1 + inner * max(tree.least, tree.most or 1, 1)
    return 1 + inner


def _may_be_empty(tree: _Tree) -> bool:
    if tree.kind in ("char", "class"):
        return False
    if tree.kind == "repeat":
        return tree.least == 0 or _may_be_empty(tree.parts[0])
    return (all if tree.kind == "all" else any)(map(_may_be_empty, tree.parts))


def _build(tree: _Tree, node: Node) -> Node:
    """From a node of this pattern alone to the one where it ends."""
    if tree.kind == "char":
        return _step(node, folded(tree.text))
    if tree.kind == "class":
        return _step(node, CharClass(tree.text))
    if tree.kind == "all":
        for part in tree.parts:
            node = _build(part, node)
        return node
    if tree.kind == "any":
        return _joined([_build(part, _then(node)) for part in tree.parts])
    (part,) = tree.parts
    for _ in range(tree.least):
        node = _build(part, node)
    if tree.most is None:
        start = _then(node)
        _build(part, start).then.append(start)
        return _then(start)
    ends = [node]
    for _ in range(tree.most - tree.least):
        node = _build(part, _then(node))
        ends.append(node)
    return _joined(ends)


def _step(node: Node, by: str | CharClass) -> Node:
    following = Node()
    node.classes.append((CharClass(re.escape(by)) if isinstance(by, str) else by, following))
    return following


def _then(node: Node) -> Node:
    following = Node()
    node.then.append(following)
    return following


def _joined(nodes: Iterable[Node]) -> Node:
    end = Node()
    for node in nodes:
        node.then.append(end)
    return end
