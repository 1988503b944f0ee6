"""Web pages as text, as a tool. What may be fetched is `core.web`'s to say; what comes back is data, whatever it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from deepseek.agent.execution.errors import ToolRefused, ToolRetry, ToolTransient
from deepseek.agent.tools.readable import readable
from deepseek.core.errors import ToolError
from deepseek.core.web import Page, WebClient, WebError, WebRefused

MAX_CHARS = 20_000
_HTML = ("text/html", "application/xhtml+xml")


def http_tool(client: WebClient, max_chars: int = MAX_CHARS) -> Callable[[str], Awaitable[str]]:
    """The tool `http_get`. max_chars: of a page's text, which is cut there and says so."""

    async def http_get(url: str) -> str:
        """Fetch a web page"""
        address = url.strip()
        try:
            page = await client.get(address if "://" in address else f"https://{address}")
        except (WebRefused, WebError) as error:
            raise told(error) from None
        text = await asyncio.to_thread(text_of, page, max_chars)
        moved = "" if page.url.rstrip("/") == address.rstrip("/") else f"[at {page.url}]\n"
        return f"{moved}{text}" if text else f"{moved}(the page is empty)"

    return http_get


def told(error: WebRefused | WebError) -> ToolError:
    """For the executor: whether the same may be tried again, or something else."""
    parts = {
        name: value
        for name in ("where", "found", "expected", "fix")
        if (value := getattr(error, name)) is not None  # what is not known is not said
    }
    if isinstance(error, WebRefused):
        return ToolRefused(error.what, **parts)
    if error.retryable:
        return ToolTransient(error.what, retry_after_s=error.retry_after_s, **parts)
    return ToolRetry(error.what, **parts)


def text_of(page: Page, max_chars: int) -> str:
    """A page's text, at most that long: HTML without its markup, JSON without surplus spaces, anything else as it is."""
    text = page.text
    if page.type in _HTML or (
        page.type in ("", "text/plain") and text[:200].lstrip().lower().startswith("<!doctype html")
    ):
        text = readable(text, page.url, max_chars + 1)
    elif page.type.endswith("json"):
        text = _compact(text)
    return text if len(text) <= max_chars else f"{text[:max_chars]}\n[cut after {max_chars} characters]"


def _compact(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
