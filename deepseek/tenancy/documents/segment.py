"""Text to the words that an index of full text knows.

Languages that put spaces between words are left to FTS5's tokenizer (with Porter's stems). Of Chinese, Japanese and Korean,
which do not, every two neighbouring characters become a word, and the last of a run one by itself: "最新数据" is 最新 新数 数据
据. So any two characters are found as a word, and any single one as the beginning of one (Nie, Gao, Zhang and Zhou, On the
Use of Words and N-grams for Chinese Information Retrieval, 2000, find bigrams as good as segmentation).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

VERSION = 1
"""To be raised when the same text gives other words: indexes of another version are made anew."""
MAX_WORDS = 48
"""Of a question."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_PIECE = re.compile(f"[{_UNSPACED}]+|[^\\W_{_UNSPACED}]+")
# What is in nearly every question, and so tells nothing of it.
_COMMON_TEXT = """
a about an and any are as at be been by can could did do does for from had has have how i if in into is it its let may me my
more no not of on or our please should so some tell than that the their them then there these they this those to us was we
were what when where which who whom whose why will with would you your
什么 怎么 如何 怎样 哪里 哪个 多少 是否 请问 一下 这个 那个 我们 你们 他们 可以 能否 的 了 是 吗 呢 在 和 有
"""
_COMMON = frozenset(_COMMON_TEXT.split())


def normalised(text: str) -> str:
    """The form in which texts and questions are compared: full and half width, capital and small are the same."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def segmented(text: str) -> str:
    """A text as FTS5 is to get it."""
    return _RUN.sub(lambda run: f" {' '.join(_grams(run[0]))} ", normalised(text))


def words(text: str) -> list[str]:
    """The words of a question, each once, the common ones left out where there are others. Of a single character of a language
    without spaces, it itself."""
    found: dict[str, None] = {}
    for match in _PIECE.finditer(normalised(text)):
        piece = match[0]
        if _RUN.match(piece) is None or len(piece) == 1:
            found[piece] = None
        else:
            found.update(dict.fromkeys(piece[at : at + 2] for at in range(len(piece) - 1)))
    telling = [word for word in found if word not in _COMMON]
    return (telling or list(found))[:MAX_WORDS]


def question(wanted: list[str]) -> str:
    """These words as a query of FTS5: any of them. Quoted, so that nothing in them is an operator."""
    return " OR ".join(f'"{word}"*' if len(word) == 1 and _RUN.match(word) else f'"{word}"' for word in wanted)


def coverage(wanted: list[str], text: str) -> float:
    """The share of the words that are in a text; those of Latin letters by their beginning, as stems are."""
    if not wanted:
        return 0.0
    form = normalised(text)
    return sum(_is_in(word, form) for word in wanted) / len(wanted)


def _is_in(word: str, form: str) -> bool:
    if _RUN.match(word):
        return word in form
    stem = word if len(word) < 6 else word[: max(5, len(word) - 3)]
    return re.search(rf"(?<![^\W_{_UNSPACED}]){re.escape(stem)}", form) is not None


def _grams(run: str) -> Iterator[str]:
    for at in range(len(run)):
        yield run[at : at + 2]
