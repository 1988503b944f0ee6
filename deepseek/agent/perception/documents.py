"""Documents as text: what a reader would see of them, bounded, with what is known of them besides.

HTML and PDF come from strangers and are read by parsers that can be made to take for ever, so these two are read in a process
of its own that is killed when its time or memory is over.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import Any

from deepseek.agent.execution.errors import ToolFailed, ToolTimeout
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool
from deepseek.agent.perception.recognise import CSV, HTML, JSON, PDF, PerceptionError, Recognised
from deepseek.core.errors import ConfigError, ToolError

PARSE_S = 30.0
PARSE_MEMORY_BYTES = 1 << 30
MAX_PAGES = 2000


@dataclass(frozen=True, slots=True)
class DocumentText:
    """metadata: title, pages, rows, ... as far as the document says. truncated: the text is not all of it."""

    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False


async def document_text(data: bytes, found: Recognised, max_chars: int, name: str = "") -> DocumentText:
    """The text of a document, at most `max_chars` characters of it. Raises PerceptionError; ConfigError where an extra is
    missing that reads it."""
    if found.media_type == PDF:
        if find_spec("pypdf") is None:
            raise ConfigError(
                "PDF files are read by pypdf, which is not installed",
                where=name or "document",
                fix="pip install 'deepseek-stack[perception]'",
            )
        return await _isolated("pdf_text", data, max_chars, name)
    text = found.text or ""
    if found.media_type == HTML:
        return await _isolated("html_text", text.encode("utf-8", "replace"), max_chars, name)
    return _bounded(text, max_chars, await asyncio.to_thread(_about, text, found))


def _about(text: str, found: Recognised) -> dict[str, str]:
    about = {"encoding": found.encoding, "lines": str(text.count("\n") + 1)}
    if found.media_type == CSV:
        rows, columns = _table(text)
        about |= {"rows": str(rows), "columns": str(columns)}
    elif found.media_type == JSON:
        value = json.loads(text)
        about["json"] = f"an object of {len(value)} keys" if isinstance(value, dict) else f"an array of {len(value)}"
    return about


def _table(text: str) -> tuple[int, int]:
    """Rows with something in them, and the fields of the widest."""
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    rows = columns = 0
    try:
        for row in csv.reader(io.StringIO(text), delimiter=delimiter):
            rows += bool(row)
            columns = max(columns, len(row))
    except csv.Error:  # a field longer than csv takes, a lone quote
        pass
    return rows, columns


def _bounded(text: str, max_chars: int, metadata: Mapping[str, str]) -> DocumentText:
    return DocumentText(text[:max_chars], metadata, len(text) > max_chars)


async def _isolated(reader: str, data: bytes, max_chars: int, name: str) -> DocumentText:
    path = await asyncio.to_thread(_written, data)
    try:
        value: dict[str, Any] = await _READERS.aexecute(reader, path=path, max_chars=max_chars)
    except ToolTimeout as error:
        raise PerceptionError("reading it takes too long", where=name or reader, found=f"{PARSE_S:g} s") from error
    except ToolFailed as error:
        raise PerceptionError("it cannot be read", where=name or reader, found=error.what[:300]) from error
    except ToolError as error:
        raise PerceptionError("it cannot be read now", where=name or reader, found=error.what[:300]) from error
    finally:
        await asyncio.to_thread(os.unlink, path)
    return DocumentText(value["text"], value["metadata"], value["truncated"])


def _written(data: bytes) -> str:
    descriptor, path = tempfile.mkstemp(prefix="deepseek-document-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return path


def pdf_text(path: str, max_chars: int) -> dict[str, Any]:
    """The text of a PDF's pages. Runs in a process of its own. Raises ToolFailed."""
    import pypdf

    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ToolFailed("it is encrypted and asks for a password")
        pieces: list[str] = []
        length = 0
        truncated = len(reader.pages) > MAX_PAGES
        for page in reader.pages[:MAX_PAGES]:
            pieces.append(page.extract_text())
            length += len(pieces[-1]) + 2
            if length > max_chars:
                truncated = True
                break
        about = {"pages": str(len(reader.pages))}
        if reader.metadata is not None and reader.metadata.title:
            about["title"] = str(reader.metadata.title)[:300]
    except (ToolFailed, MemoryError):
        raise
    except Exception as error:  # pypdf fails on broken files in as many ways as there are
        raise ToolFailed(f"a broken PDF: {type(error).__name__}: {error}"[:300]) from error
    return {"text": "\n\n".join(pieces).strip()[:max_chars], "metadata": about, "truncated": truncated}


def html_text(path: str, max_chars: int) -> dict[str, Any]:
    """What a page shows, without scripts and layout. Runs in a process of its own."""
    with open(path, encoding="utf-8", errors="replace") as file:
        parser = _Page(max_chars)
        parser.feed(file.read())
        parser.close()
    text = parser.text()
    about = {"title": parser.title.strip()[:300]} if parser.title.strip() else {}
    return {"text": text[:max_chars], "metadata": about, "truncated": parser.full or len(text) > max_chars}


_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "math", "object", "iframe"})
_BLOCKS = frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "form",
    }
    | {"h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option", "p", "pre", "section"}
    | {"table", "tbody", "td", "th", "thead", "tr", "ul"}
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}


class _Page(HTMLParser):
    def __init__(self, max_chars: int) -> None:
        super().__init__(convert_charrefs=True)
        self.title, self.full = "", False
        self._left, self._pieces = 2 * max_chars, list[str]()
        self._hidden, self._in_title, self._preformatted = 0, False, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "title":
            self._in_title = True
        elif tag == "pre":
            self._preformatted += 1
        if tag in ("td", "th"):
            self._add("\t")
        elif tag in _BLOCKS:
            self._add("\n" + ("- " if tag == "li" else _HEADINGS.get(tag, "")))
        elif tag == "img" and (described := dict(attrs).get("alt")):
            self._add(f"[{described}]")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "title":
            self._in_title = False
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag in _BLOCKS and tag not in ("td", "th"):
            self._add("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data[: 300 - len(self.title)] if len(self.title) < 300 else ""
        elif not self._hidden:
            words = data if self._preformatted else " ".join(f"|{data}|".split())[1:-1]
            at_start = not self._pieces or self._pieces[-1].endswith(("\n", " "))
            self._add(words.lstrip(" ") if at_start and not self._preformatted else words)

    def _add(self, piece: str) -> None:
        if self._left <= 0:
            self.full = True
            return
        self._left -= len(piece)
        self._pieces.append(piece)

    def text(self) -> str:
        shown: list[str] = []
        for line in "".join(self._pieces).split("\n"):
            line = line.rstrip().lstrip("\t")
            if line or (shown and shown[-1]):
                shown.append(line)
        return "\n".join(shown).strip("\n")


_PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "max_chars": {"type": "integer"}},
    "required": ["path", "max_chars"],
}
_READERS = ToolRegistry(
    [
        Tool.of(
            function,
            parameters=_PARAMETERS,
            isolate=True,
            timeout_s=PARSE_S,
            memory_bytes=PARSE_MEMORY_BYTES,
        )
        for function in (pdf_text, html_text)
    ]
)
