"""The form that texts are compared in, one character for one: so that a place in it is a place in the text.

NFKC and case folding, where that leaves one character; `SKIPPED` for what is not seen, such as a zero-width space put into a
word so that it is not found.
"""

from __future__ import annotations

import unicodedata

SKIPPED = "\0"
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x0F00, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")


class _Table(dict[int, str]):
    """What `str.translate` asks; filled as characters are met, which are finitely many."""

    def __missing__(self, code: int) -> str:
        self[code] = made = _folded(chr(code))
        return made


def _folded(char: str) -> str:
    if unicodedata.category(char) in ("Cf", "Mn", "Me") or char in _INVISIBLE or char == SKIPPED:
        return SKIPPED
    form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", char).casefold())
    base = unicodedata.normalize("NFKD", form)
    if base[:1] < "\u0530" and all(unicodedata.combining(mark) for mark in base[1:]):
        form = base[:1]  # without its accents, as one that is written apart from them is
    return form if len(form) == 1 else char


_TABLE = _Table()
_WORDS: dict[str, bool] = {}


def folded(text: str) -> str:
    """A text of the same length."""
    return text.lower() if text.isascii() and SKIPPED not in text else text.translate(_TABLE)


def is_word(char: str) -> bool:
    """Whether it is part of words that are kept apart by spaces: not of Chinese, for one."""
    found = _WORDS.get(char)
    if found is None:
        code = ord(char) if char else 0
        found = (char.isalnum() or char == "_") and not any(low <= code <= high for low, high in _UNSPACED)
        _WORDS[char] = found
    return found
