"""Searching the web and the tenant's documents, as tools: a few lines, each with where it is from.

What is found is data and is put on one line each, so that no page can lay out a conversation of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolFailed, ToolRetry, ToolTransient
from deepseek.agent.tenant import tenant_of
from deepseek.core.web import WebError, WebRefused
from deepseek.plugins.search import SearchEngine

RESULTS = 3
PASSAGES = 4
_SNIPPET_CHARS = 300
_PASSAGE_CHARS = 1500
_MAX_QUERY_CHARS = 500


@dataclass(frozen=True, slots=True)
class Found:
    """One page or passage. source: its address, or the document's name."""

    text: str
    title: str = ""
    source: str = ""


Find = Callable[[str, int, ToolContext], Awaitable[Sequence[Found]]]
"""(what, how many at most, on whose behalf) -> the best first. Raises ToolError."""


def pages_of(engine: SearchEngine) -> Find:
    """What a search engine finds. What is wrong with it is no fault of the model's: it may only be asked again later."""

    async def find(query: str, most: int, context: ToolContext) -> Sequence[Found]:
        try:
            results = await engine.find(query, tenant_of(context.tenant))
        except WebError as error:
            if error.retryable:
                raise ToolTransient("the search engine does not answer", retry_after_s=error.retry_after_s) from None
            raise ToolFailed("the search engine cannot be used", found=error.what) from None
        except WebRefused as error:
            raise ToolFailed("the search engine cannot be used", found=error.what) from None
        return [Found(result.snippet, result.title, result.url or result.source) for result in results[:most]]

    return find


def search_tool(find: Find, results: int = RESULTS) -> Callable[..., Awaitable[str]]:
    """The tool `web_search`."""

    async def web_search(query: str, context: ToolContext) -> str:
        """Search the web"""
        found = await find(_checked(query), results, context)
        return "\n".join(_line(one, _SNIPPET_CHARS) for one in found[:results]) or "no results"

    return web_search


def retrieve_tool(find: Find, passages: int = PASSAGES) -> Callable[..., Awaitable[str]]:
    """The tool `retrieve`."""

    async def retrieve(query: str, context: ToolContext) -> str:
        """Find passages in the user's documents"""
        found = await find(_checked(query), passages, context)
        return "\n".join(_line(one, _PASSAGE_CHARS) for one in found[:passages]) or "no results"

    return retrieve


def _checked(query: str) -> str:
    plain = " ".join(query.split())
    if not plain:
        raise ToolRetry("nothing to search for")
    if len(plain) > _MAX_QUERY_CHARS:
        raise ToolRetry(
            "the query is too long", found=f"{len(plain)} characters", expected=f"at most {_MAX_QUERY_CHARS}"
        )
    return plain


def _line(found: Found, most: int) -> str:
    text, title, source = _one_line(found.text, most), _one_line(found.title, 120), _one_line(found.source, 300)
    named = f"{title}: {text}" if title and text and not text.startswith(title) else text or title
    return f"{named} ({source})" if source else named


def _one_line(text: str, most: int) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"
