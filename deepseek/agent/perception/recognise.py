"""What a file is, by its bytes. Its name only decides between kinds of text, which bytes alone cannot tell apart.

Images, sounds and films are known by their first bytes (`deepseek.core.media.sniff`), a PDF too. What is left is text if it
decodes: UTF-8, UTF-16 or UTF-32 with a mark, or GB 18030. Anything else is refused, never guessed at.
"""

from __future__ import annotations

import csv
import io
import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from deepseek.core.errors import DeepSeekError
from deepseek.core.media.sniff import KIND_OF, sniff
from deepseek.core.messages import MediaKind

PDF, HTML, MARKDOWN, JSON, CSV, PLAIN = (
    "application/pdf",
    "text/html",
    "text/markdown",
    "application/json",
    "text/csv",
    "text/plain",
)

_BY_SUFFIX = {
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".csv": CSV,
    ".tsv": CSV,
}
_MARKS = (
    # The longer mark first: UTF-32's begins with UTF-16's.
    (BOM_UTF32_LE, "utf-32"),
    (BOM_UTF32_BE, "utf-32"),
    (BOM_UTF8, "utf-8-sig"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)
_HTML_HEAD = re.compile(r"\s{0,1000}(?:<!--.{0,1000}?-->\s{0,100})?<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_MARKDOWN_LINE = re.compile(r"^(?:#{1,6} \S|```|\s{0,3}[-*] \[[ x]\] |\|.*\|\s*$|\[[^\]\n]+\]\([^)\n]+\))", re.M)
_HEAD_CHARS = 8192


class PerceptionError(DeepSeekError):
    """What was handed over cannot be taken: it is of no known kind, broken, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """media_type: by the bytes. kind: of media; else "document". text: of what is text already. encoding: it was in."""

    media_type: str
    kind: MediaKind | Literal["document"]
    text: str | None = None
    encoding: str = ""


def recognise(data: bytes, name: str = "") -> Recognised:
    """What these bytes are. Raises PerceptionError."""
    if not data:
        raise PerceptionError("an empty file", where=name or None)
    media_type = sniff(data)
    if media_type is not None:
        return Recognised(media_type, KIND_OF[media_type])
    if b"%PDF-" in data[:1024]:
        return Recognised(PDF, "document")
    text, encoding = decoded(data, name)
    return Recognised(_kind_of_text(text, name), "document", text, encoding)


def decoded(data: bytes, name: str = "") -> tuple[str, str]:
    """The text that these bytes are, and its encoding. Raises PerceptionError for what is none."""
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    for tried in ("utf-8", "gb18030") if marked is None else (marked,):
        try:
            text = data.decode(tried)
        except UnicodeDecodeError:
            continue
        if not _is_binary(text):
            return text, tried
    raise PerceptionError(
        "a file of a kind that is not taken",
        where=name or None,
        found=f"bytes beginning {data[:8].hex(' ')}",
        expected="text, HTML, Markdown, JSON, CSV, PDF, or an image, a sound or a film of a known type",
    )


def _is_binary(text: str) -> bool:
    """Text has no control characters but those that lay it out; GB 18030 decodes much that is none."""
    head = text[: 1 << 16]
    odd = sum(1 for character in head if character < " " and character not in "\t\n\r\f\v\x1b")
    private = sum(1 for character in head if "\ue000" <= character <= "\uf8ff")
    return "\0" in head or 50 * odd > len(head) or 10 * private > len(head)


def _kind_of_text(text: str, name: str) -> str:
    head = text[:_HEAD_CHARS]
    if _HTML_HEAD.match(head):
        return HTML
    if _is_json(text):
        return JSON
    by_name = _BY_SUFFIX.get(PurePath(name).suffix.lower())
    if by_name is not None:
        return by_name
    if _MARKDOWN_LINE.search(head):
        return MARKDOWN
    return CSV if _is_csv(head, whole=len(text) <= len(head)) else PLAIN


def _is_json(text: str) -> bool:
    """An object or an array: a lone number or word is better called text."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_csv(head: str, *, whole: bool) -> bool:
    """At least two rows of as many fields, two or more, by a comma, a semicolon or a tab."""
    lines = head.splitlines(keepends=True)
    lines = lines if whole else lines[:-1]
    for delimiter in "\t;,":
        try:
            widths = {len(row) for row in csv.reader(io.StringIO("".join(lines[:50])), delimiter=delimiter) if row}
        except csv.Error:
            continue
        if len(lines) >= 2 and len(widths) == 1 and widths.pop() >= 2:
            return True
    return False
