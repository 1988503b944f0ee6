"""Who can be asked to search: a SearXNG instance, Brave, or the tenant's own documents.

SearXNG's JSON must be switched on there: https://docs.searxng.org/dev/search_api.html. Brave needs a key:
https://api-dashboard.search.brave.com/app/documentation/web-search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from deepseek.core.documents import DocumentSearch, documents
from deepseek.core.errors import ConfigError
from deepseek.core.web import Page, WebClient, WebError, WebLimits, WebRefused
from deepseek.plugins.quoting import plain
from deepseek.plugins.search.result import SearchResult

BRAVE_URL = "https://api.search.brave.com/res/v1/web/search"
LIMITS = WebLimits(bytes=4 << 20, seconds=8.0, redirects=2, types=("application/json",))
MAX_TITLE_CHARS = 120
MAX_SNIPPET_CHARS = 400
MAX_URL_CHARS = 300
MAX_QUERY_CHARS = 400
MAX_QUERY_WORDS = 50


class Provider(Protocol):
    """Somebody who searches. name: for errors."""

    name: str

    async def search(self, query: str, limit: int, tenant: str | None) -> Sequence[SearchResult]:
        """Raises WebRefused, WebError; for a tenant's own documents TenancyError."""
        ...


class SearXNG:
    """url: the instance's, `http://searx.corp:8080`. If it is not on the public web, `allow` must name it."""

    name = "SearXNG"

    def __init__(self, url: str, *, allow: Sequence[str] = (), client: WebClient | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "no address of SearXNG", where="url", found=repr(url)[:80], expected="http(s)://host[:port]"
            )
        self._url = url.rstrip("/") + "/search"
        self._place = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        self._client = client or WebClient(allow=allow, limits=_with_port(parts.port))

    async def search(self, query: str, limit: int, tenant: str | None) -> Sequence[SearchResult]:
        try:
            page = await self._client.get(self._url, params={"q": shortened(query), "format": "json"})
        except WebError as error:
            if error.status == 403:
                fix = "add json to search.formats in its settings.yml"
                raise WebError("SearXNG refuses to answer in JSON", status=403, where=self._place, fix=fix) from None
            raise
        except WebRefused as error:
            if error.found is not None and error.found.startswith("an address that is"):
                raise WebRefused(error.what, where=self._place, found=error.found, fix=_allowing(self._place)) from None
            raise
        return _results(_list(_object(page), "results"), "content", limit)


class Brave:
    """Brave's search API. url: another address of it."""

    name = "Brave"

    def __init__(self, api_key: str, *, url: str = BRAVE_URL, client: WebClient | None = None) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable():
            raise ConfigError("no key of Brave's search API", where="api_key", expected="printable ASCII characters")
        self._key = api_key
        self._url = url
        self._client = client or WebClient(limits=LIMITS)

    async def search(self, query: str, limit: int, tenant: str | None) -> Sequence[SearchResult]:
        page = await self._client.get(
            self._url,
            params={"q": shortened(query), "count": min(20, max(1, limit)), "text_decorations": "false"},
            headers={"X-Subscription-Token": self._key},
        )
        web = _object(page).get("web")
        return _results(_list(web if isinstance(web, dict) else {}, "results"), "description", limit)


class Local:
    """The tenant's own documents, put in by `deepseek index PATH`."""

    name = "documents"

    def __init__(self, search: DocumentSearch | None = None, *, min_coverage: float = 0.0) -> None:
        self._documents = search or documents()
        self._min_coverage = min_coverage

    async def search(self, query: str, limit: int, tenant: str | None) -> Sequence[SearchResult]:
        passages = await self._documents.search(query, tenant=tenant, limit=limit)
        return [
            SearchResult(
                plain(passage.title, MAX_TITLE_CHARS),
                plain(passage.text, MAX_SNIPPET_CHARS),
                source=plain(passage.name, MAX_TITLE_CHARS),
            )
            for passage in passages
            if passage.coverage >= self._min_coverage
        ]


def shortened(query: str) -> str:
    """A prompt as a query: one line, so many words and characters as every provider takes."""
    return " ".join(query[: 20 * MAX_QUERY_CHARS].split()[:MAX_QUERY_WORDS])[:MAX_QUERY_CHARS].strip()


def _with_port(port: int | None) -> WebLimits:
    ports = LIMITS.ports | ({port} if port else set())
    return WebLimits(LIMITS.bytes, LIMITS.seconds, LIMITS.redirects, LIMITS.types, ports)


def _allowing(place: str) -> str:
    return f"if this is your own, add allow: [{place}]"


def _object(page: Page) -> Mapping[str, Any]:
    try:
        found = json.loads(page.text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WebError("the answer is not a JSON object", where=page.url.partition("?")[0])
    return found


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []


def _results(rows: Sequence[Any], snippet: str, limit: int) -> list[SearchResult]:
    """Those of the rows that are results with an address of the web, each address once."""
    results: dict[str, SearchResult] = {}
    for row in rows:
        url = row.get("url") if isinstance(row, dict) else None
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or len(url) > MAX_URL_CHARS:
            continue
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            continue
        address = plain(url, MAX_URL_CHARS).replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")
        title, text = plain(row.get("title"), MAX_TITLE_CHARS), plain(row.get(snippet), MAX_SNIPPET_CHARS)
        if title or text:
            results.setdefault(address, SearchResult(title, text, address, plain(host, MAX_TITLE_CHARS)))
        if len(results) == limit:
            break
    return list(results.values())
