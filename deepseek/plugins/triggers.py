"""Whether a text has one of a plugin's trigger words.

Text and words are compared in one form: NFKC, case folded, NFKC again (Unicode 5.18, R5 with compatibility), so that
full-width and half-width, upper and lower case are the same. Where a word begins or ends with a letter of a script that puts
spaces between words, it must begin or end there in the text too: "search" is not in "researcher". Chinese, Japanese,
Korean, Thai and their like put none (Korean appends its particles), so there a word may stand anywhere, and such a letter
beside a Latin one is a border: "search" is in "请search一下".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

# Ranges of letters that follow each other without spaces.
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff\u1000-\u109f"  # Tibetan, Myanmar
    "\u1100-\u11ff\u1780-\u17ff"  # Hangul Jamo, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"  # radicals, iteration marks, Hangzhou numerals
    "\u3040-\u30ff\u3100-\u312f\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"  # Han, Hangul
    "\U00020000-\U0003ffff"  # Han of the supplementary planes
)
# What every Chinese text has, and NFKC writes otherwise. Replaced beforehand, most texts are in that form already, and are
# not written anew.
_PUNCTUATION = [(char, unicodedata.normalize("NFKC", char)) for char in "，！？：；（）～…\u3000\u00a0"]
_UNSPACED = re.compile(f"[{UNSPACED}]")
_SPACES = re.compile(r"\s+")


def normalised(text: str) -> str:
    """The form that texts and words are compared in."""
    if text.isascii():
        return text.lower()
    for char, plain in _PUNCTUATION:
        text = text.replace(char, plain)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class Triggers:
    """Several words, looked for together. Raises ValueError for a word of spaces alone."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        pieces = [_SPACES.split(normalised(word).strip()) for word in self.words]
        if not all(found[0] for found in pieces):
            raise ValueError("a trigger word must not be empty")
        # A plain look for a part of each is far cheaper than the pattern, and mostly finds nothing.
        self._needles = tuple({max(found, key=len) for found in pieces})
        borders: dict[tuple[bool, bool], list[str]] = {}
        for found in pieces:
            kind = _needs_border(found[0][0]), _needs_border(found[-1][-1])
            borders.setdefault(kind, []).append(r"\s+".join(map(re.escape, found)))
        self._pattern = re.compile("|".join(_pattern(words, *kind) for kind, words in sorted(borders.items())))

    def found_in(self, text: str) -> bool:
        """Whether one of the words is in a text, which is `normalised` already."""
        for needle in self._needles:
            if needle in text:
                return self._pattern.search(text) is not None
        return False


def _pattern(words: list[str], begin: bool, end: bool) -> str:
    """Any of these words. begin, end: whether they must begin and end with a word of the text."""
    before = f"(?<![^\\W{UNSPACED}])(?<![{_marks()}])" if begin else ""
    after = f"(?![^\\W{UNSPACED}]|[{_marks()}])" if end else ""
    return f"{before}(?:{'|'.join(words)}){after}"


def _needs_border(char: str) -> bool:
    word = char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"
    return word and _UNSPACED.match(char) is None


@cache
def _marks() -> str:
    """Combining marks as ranges of a character class: they belong to the letter before, and `\\w` does not have them."""
    unspaced = re.compile(f"[{UNSPACED}]")
    places = [
        code
        for code in range(0x300, 0x10000)
        if unicodedata.category(chr(code))[0] == "M" and not unspaced.match(chr(code))
    ]
    ranges: list[list[int]] = []
    for code in places:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in ranges)
