"""A document cut into passages short enough to put before a prompt, at borders of paragraphs and sentences where there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH = 1000
"""Of a passage, in columns: a Chinese character has two, and says about twice as much as a letter."""
OVERLAP = 120
"""Columns of the passage before that are in the next one again, so that what stands at a border is whole in one of them."""

_BORDERS = (
    re.compile(r"\n[ \t]*\n\s*|\n(?=#{1,6} )"),  # paragraphs, headings of Markdown
    re.compile(r"\n"),
    re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+"),
    re.compile(r"(?<=[，、：,:])\s*|\s+"),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """start, end: in characters of the document."""

    start: int
    end: int
    text: str


def chunks(text: str, width: int = WIDTH, overlap: int = OVERLAP) -> Iterator[Chunk]:
    """Passages in order; together they cover all that is not blank."""
    start = 0
    while start < len(text):
        most = _reach(text, start, width)
        end = len(text) if most >= len(text) else _border(text, start, most)
        begin, stop = _trimmed(text, start, end)
        if begin < stop:
            yield Chunk(begin, stop, text[begin:stop])
        if end >= len(text):
            return
        back = _back(text, start, end, overlap)
        start = back if back > start else end


def _columns(char: str) -> int:
    return 2 if ord(char) >= 0x2E80 else 1


def _reach(text: str, start: int, width: int) -> int:
    if text[start : start + width].isascii():
        return start + width
    at = start
    while at < len(text) and width > 0:
        width -= _columns(text[at])
        at += 1
    return at


def _border(text: str, start: int, most: int) -> int:
    """The last border of the best kind in the second half of what fits."""
    half = start + (most - start) // 2
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text, half, most) if match.end() > half]
        if ends:
            return ends[-1]
    return most


def _back(text: str, start: int, end: int, overlap: int) -> int:
    """Where the next passage begins: after a sentence or a word, about so many columns before the end."""
    at = end
    while at > start and overlap > 0:
        at -= 1
        overlap -= _columns(text[at])
    for border in _BORDERS[1:]:
        found = next((match.end() for match in border.finditer(text, at, end) if at < match.end() < end), None)
        if found is not None:
            return found
    return at


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    begin = start + len(piece) - len(piece.lstrip())
    return begin, begin + len(piece.strip())
