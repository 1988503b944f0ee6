"""Marks: how a template's own special tokens stay apart from equal text in a conversation.

Every control-token literal written in a template's source is replaced, before it is compiled, by one
private character, its *mark*. Marks are lone surrogates, which no valid text contains, and text from
outside is refused if it has one. So whatever the template does with strings, a mark in its output was
put there by its source, and anything else was not: neither a forged `<｜User｜>` in a message, nor one
that arises where a message meets the template's text.

Where a template *looks for* a literal in a conversation (`content.split('</think>')`, `'<x>' in content`)
the mark must match the spelled-out text. `string_method` does this for the methods of strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_FIRST_MARK = 0xD800
_LAST_MARK = 0xDFFF
MAX_MARKS = _LAST_MARK - _FIRST_MARK + 1

_MARKED = re.compile("[\ud800-\udfff]")

_CASE = {"capitalize", "casefold", "lower", "swapcase", "title", "upper"}
_SEARCH = {
    "count",
    "endswith",
    "find",
    "index",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "split",
    "startswith",
}
_NEUTRAL = {
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "lstrip",
    "rstrip",
    "splitlines",
    "strip",
}
# Not here: `encode` (bytes can be decoded into any character), `format`, and those that pad to a width.
STRING_METHODS = frozenset(_CASE | _SEARCH | _NEUTRAL)


class Marks:
    """The marks of some literals: `mark` puts them in, `plain` takes them out, `pieces` reads them off."""

    def __init__(self, literals: Iterable[str]) -> None:
        # Longest first, so that of two literals beginning alike the longer one is found, as tokenizers do.
        ordered = sorted(set(literals), key=lambda literal: (-len(literal), literal))
        self._mark_of = {literal: chr(_FIRST_MARK + i) for i, literal in enumerate(ordered)}
        self._literal_of = {mark: literal for literal, mark in self._mark_of.items()}
        self._literals = re.compile("|".join(map(re.escape, ordered)) if ordered else "(?!)")

    def mark(self, text: str) -> str:
        return self._literals.sub(lambda match: self._mark_of[match[0]], text)

    def plain(self, value: Any) -> Any:
        """The same text spelled out; lists and tuples of text too, anything else as it is."""
        if isinstance(value, str):
            return (
                _MARKED.sub(lambda match: self._literal_of.get(match[0], match[0]), value) if marked(value) else value
            )
        if isinstance(value, list | tuple):
            return type(value)(self.plain(entry) for entry in value)
        return value

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut marked text into (content, False) and (literal of a mark, True), in order."""
        start = 0
        for match in _MARKED.finditer(text):
            if match.start() > start:
                yield text[start : match.start()], False
            yield self._literal_of[match[0]], True
            start = match.end()
        if start < len(text):
            yield text[start:], False

    def string_method(self, receiver: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`receiver.name(*args)`, where a literal is found whether it is marked or spelled out.

        In a marked receiver only split, startswith, endswith, count, replace, partition, removeprefix and
        removesuffix see spelled-out literals; others see the mark as one character.
        """
        if name in _CASE:
            receiver = self.plain(receiver)
        elif name in _SEARCH and marked(receiver) and args and name in _IN_MARKED:
            return _IN_MARKED[name](self._pattern, receiver, *args, **kwargs)
        elif name in _SEARCH and args:
            args = (self.plain(args[0]), *args[1:])
        return getattr(receiver, name)(*args, **kwargs)

    def _pattern(self, text: str) -> str:
        """A regular expression for `text` in which each literal matches its mark too."""
        expression = ""
        for piece, is_literal in self.pieces(self.mark(text)):
            spelled = re.escape(piece)
            expression += f"(?:{spelled}|{self._mark_of[piece]})" if is_literal else spelled
        return expression


def marked(text: str) -> bool:
    """Whether there is a mark (or any lone surrogate) in the text."""
    return not text.isascii() and _MARKED.search(text) is not None


Pattern = Callable[[str], str]


def _split(pattern: Pattern, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    if sep is None:
        return text.split(None, maxsplit)
    if not sep:
        raise ValueError("empty separator")
    return text.split(sep, 0) if maxsplit == 0 else re.split(pattern(sep), text, maxsplit=max(maxsplit, 0))


def _startswith(pattern: Pattern, text: str, prefix: str | tuple[str, ...]) -> bool:
    options = prefix if isinstance(prefix, tuple) else (prefix,)
    return any(re.match(pattern(option), text) for option in options)


def _endswith(pattern: Pattern, text: str, suffix: str | tuple[str, ...]) -> bool:
    options = suffix if isinstance(suffix, tuple) else (suffix,)
    return any(re.search(f"(?:{pattern(option)})\\Z", text) for option in options)


def _count(pattern: Pattern, text: str, sub: str) -> int:
    return sum(1 for _ in re.finditer(pattern(sub), text))


def _replace(pattern: Pattern, text: str, old: str, new: str, count: int = -1) -> str:
    return text if count == 0 else re.sub(pattern(old), lambda _: new, text, count=max(count, 0))


def _partition(pattern: Pattern, text: str, sep: str) -> tuple[str, str, str]:
    match = re.search(pattern(sep), text)
    return (text[: match.start()], match[0], text[match.end() :]) if match else (text, "", "")


def _removeprefix(pattern: Pattern, text: str, prefix: str) -> str:
    return re.sub(rf"\A(?:{pattern(prefix)})", "", text)


def _removesuffix(pattern: Pattern, text: str, suffix: str) -> str:
    return re.sub(f"(?:{pattern(suffix)})\\Z", "", text)


_IN_MARKED: dict[str, Callable[..., Any]] = {
    "count": _count,
    "endswith": _endswith,
    "partition": _partition,
    "removeprefix": _removeprefix,
    "removesuffix": _removesuffix,
    "replace": _replace,
    "split": _split,
    "startswith": _startswith,
}
