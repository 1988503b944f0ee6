"""What a search found, and how it is put before a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.plugins.quoting import Quotation, quoted


@dataclass(frozen=True, slots=True)
class SearchResult:
    """source: who says so, for people: a site's host, or a document's name. Each part is one line."""

    title: str
    snippet: str
    url: str = ""
    source: str = ""


def cited(results: Sequence[SearchResult], question: str) -> str:
    """The results as a text to put before the question they were searched for; "" where there are none."""
    return quoted("results", (Quotation(_heading(found), found.snippet) for found in results), question)


def _heading(found: SearchResult) -> str:
    origin = " ".join(part for part in (found.source, f"<{found.url}>" if found.url else "") if part)
    return f"{found.title} ({origin})" if found.title and origin else found.title or origin
