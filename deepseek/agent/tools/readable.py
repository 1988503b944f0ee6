"""The text of a web page as a reader sees it: no markup, scripts or styles; paragraphs, list items and rows on lines of
their own, headings and links marked as in Markdown.

Pages come from strangers, so that the time this takes grows with a page's length and not faster. The standard library's
`html.parser` does not promise that (CVE-2025-6069): 300 kB of ``<a `` keep it busy for minutes. The cutting into tags and
text is therefore done here, after the tokenization rules of the HTML standard (13.2.5) where they matter to text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Literal
from urllib.parse import urljoin

_RAW = frozenset({"script", "style", "textarea", "iframe", "noscript", "noembed", "noframes", "xmp"})
_SILENT = frozenset({"template", "svg", "math", "object", "select"})
_BREAKS = frozenset(
    {
        "address", "article", "aside", "body", "br", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset",
        "figcaption", "figure", "footer", "form", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "nav", "section",
        "summary", "tbody", "tfoot", "thead", "tr",
    }
)  # fmt: skip
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "table", "ul", "ol", "pre", "blockquote"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})

_NAME = re.compile(r"</?([A-Za-z][^\s/>]{0,40})")
_OPENED_VALUE = re.compile(r"=\s*([\"'])")
_ATTRIBUTE = re.compile(r"""\b(href|alt)\s*=\s*("[^"]*"|'[^']*'|[^\s>"']+)""", re.IGNORECASE)
_LONG_REFERENCE = re.compile(r"&#[xX]?[0-9a-fA-F]{8,};?")
_SPACES = re.compile(r"[ \t\r\n\f\v\u00a0]+")
_MAX_TAG_CHARS = 4096
_MAX_LINK_CHARS = 500

Piece = tuple[Literal["text", "start", "end"], str, str]
"""A text; or a tag's name in small letters and all of the tag."""


def readable(html: str, base: str = "", max_chars: int = 100_000) -> str:
    """The text. base: the page's address, for its links; without it links are left out. Cut at about max_chars."""
    reader = _Reader(base, max_chars)
    for piece in _pieces(html):
        reader.take(piece)
        if reader.full:
            break
    return reader.text()


def _pieces(html: str) -> Iterator[Piece]:
    """The page cut into text and tags, in time proportional to its length."""
    at, unclosed = 0, set[str]()
    while at < len(html):
        opened = html.find("<", at)
        if opened != at:
            yield "text", html[at:opened] if opened >= 0 else html[at:], ""
            if opened < 0:
                return
        if html.startswith("<!--", opened):
            closed = html.find("-->", opened + 4)
            at = closed + 3 if closed >= 0 else len(html)
        elif html.startswith(("<!", "<?"), opened):
            closed = html.find(">", opened)
            at = closed + 1 if closed >= 0 else len(html)
        elif (found := _NAME.match(html, opened)) is not None:
            closed = _end_of_tag(html, opened, unclosed)
            if closed < 0:
                return
            at = closed + 1
            name = found[1].lower()
            ends = html[opened + 1] == "/"
            yield "end" if ends else "start", name, html[opened : min(at, opened + _MAX_TAG_CHARS)]
            if name in _RAW and not ends:
                last = re.compile(f"</{name}", re.IGNORECASE).search(html, at)
                at = last.start() if last is not None else len(html)
        else:
            yield "text", "<", ""
            at = opened + 1


def _end_of_tag(html: str, opened: int, unclosed: set[str]) -> int:
    """Where the tag's ``>`` is, outside quoted values; -1: nowhere. unclosed: quotes that do not come again."""
    at = opened + 1
    closed = html.find(">", at)
    while closed >= 0:
        value = _OPENED_VALUE.search(html, at, closed)
        if value is None or value[1] in unclosed:
            return closed
        end = html.find(value[1], value.end())
        if end < 0:
            unclosed.add(value[1])
            return closed
        at = end + 1
        if at > closed:
            closed = html.find(">", at)
    return closed


class _Reader:
    def __init__(self, base: str, max_chars: int) -> None:
        self._base, self._room = base, max_chars
        self._lines: list[str] = []
        self._line: list[str] = []
        self._silent, self._depth = "", 0  # the element whose content is left out, and how often it stands in itself
        self._title, self._in_title = "", False
        self._verbatim = 0
        self._link: tuple[str, int] | None = None

    @property
    def full(self) -> bool:
        return self._room < 0

    def text(self) -> str:
        self._break()
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(self._lines)).strip("\n")
        title = _SPACES.sub(" ", self._title).strip()
        return f"{title}\n\n{text}".strip("\n") if title and not text.startswith((title, f"# {title}")) else text

    def take(self, piece: Piece) -> None:
        kind, content, tag = piece
        if kind == "text":
            if self._in_title:
                self._title = (self._title + _characters(content))[:500]
            elif not self._silent:
                self._add(_characters(content))
        elif kind == "start":
            self._start(content, tag)
        else:
            self._end(content)

    def _start(self, name: str, tag: str) -> None:
        if name == "body":  # whatever was not closed in the head
            self._silent, self._in_title = "", False
        if self._silent:
            self._depth += name == self._silent
        elif name in _SILENT:
            self._silent, self._depth = name, 1
        elif name == "title":
            self._in_title = not self._title
        elif name in ("td", "th"):
            if any(part.strip() for part in self._line):
                self._line.append(" | ")
        elif name == "img":
            alternative = _attributes(tag).get("alt", "").strip()
            self._add(f"[{alternative}]" if alternative else "")
        elif name == "a":
            if self._base:
                self._link = _attributes(tag).get("href", ""), len(self._line)
        else:
            self._block(name)
            if name == "li":
                self._line.append("- ")
            elif name in _HEADINGS:
                self._line.append("#" * int(name[1]) + " ")
            self._verbatim += name == "pre"

    def _end(self, name: str) -> None:
        if name == "title":
            self._in_title = False
        if self._silent:
            self._depth -= name == self._silent
            if self._depth == 0:
                self._silent = ""
        elif name == "a" and self._link is not None:
            self._end_link(*self._link)
        else:
            self._block(name)
            if name == "pre":
                self._verbatim = max(0, self._verbatim - 1)

    def _block(self, name: str) -> None:
        if name in _BREAKS or name in _PARAGRAPHS:
            self._break(paragraph=name in _PARAGRAPHS)

    def _add(self, text: str) -> None:
        self._room -= len(text)
        if not self._verbatim:
            self._line.append(_SPACES.sub(" ", text))
            return
        *lines, last = text.split("\n")
        for line in lines:
            self._line.append(line)
            self._break()
        self._line.append(last)

    def _end_link(self, href: str, start: int) -> None:
        self._link = None
        shown = "".join(self._line[start:]).strip()
        target = _target(self._base, href)
        if shown and target:
            self._line[start:] = [f"[{shown}]({target})"]
            self._room -= len(target)

    def _break(self, *, paragraph: bool = False) -> None:
        line = "".join(self._line)
        line = line.rstrip() if self._verbatim else _SPACES.sub(" ", line).strip()
        self._line.clear()
        self._link = None
        if line.strip("-#| ") or self._verbatim:
            self._lines.append(line)
        if paragraph and self._lines and self._lines[-1]:
            self._lines.append("")


def _characters(text: str) -> str:
    """Without character references and NUL."""
    if "&" in text:
        text = unescape(_LONG_REFERENCE.sub("\ufffd", text))  # they name no character, and int() refuses the longest
    return text.replace("\0", "")


def _attributes(tag: str) -> dict[str, str]:
    found = ((name.lower(), value.strip("\"'")) for name, value in _ATTRIBUTE.findall(tag))
    return {name: _characters(value) for name, value in found}


def _target(base: str, href: str) -> str:
    if not href or href.startswith("#") or len(href) > _MAX_LINK_CHARS:
        return ""
    try:
        target = urljoin(base, href.strip())
    except ValueError:
        return ""
    return target if target.startswith(("http://", "https://")) else ""
