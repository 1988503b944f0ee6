"""`SearchEngine`: one face for every provider, for plugins of one's own as the article writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from deepseek.core.errors import ConfigError
from deepseek.core.web import WebClient
from deepseek.plugins.search.providers import BRAVE_URL, LIMITS, Brave, Local, Provider, SearXNG
from deepseek.plugins.search.result import SearchResult, cited

MAX_RESULTS = 20


class SearchEngine:
    """Searches the web, or the tenant's own documents, whichever the parameters speak of.

    api_key: of Brave. url: of a SearXNG instance, or with api_key another address of Brave's. Neither: the documents put in
    by `deepseek index`. provider: brave, searxng, local, or an object of one's own. limit: results. allow: hosts and networks
    that may be asked although they are not on the public web. Raises ConfigError.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        url: str | None = None,
        provider: str | Provider | None = None,
        limit: int = 5,
        allow: Sequence[str] = (),
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_RESULTS:
            raise ConfigError("not a number of results", where="limit", found=limit, expected=f"1 to {MAX_RESULTS}")
        self.limit = limit
        self.provider = _provider(api_key, url, provider, allow)

    def search(self, query: str, tenant: str | None = None) -> str:
        """What is found, as a text to put before a prompt: quoted, with sources; "" for nothing. It blocks.

        Raises ToolError. tenant: of the documents; by default the current one.
        """
        return cited(self.results(query, tenant), query)

    def results(self, query: str, tenant: str | None = None) -> Sequence[SearchResult]:
        """What is found, for code that is not on an event loop: it blocks."""
        return asyncio.run(self.find(query, tenant))

    async def find(self, query: str, tenant: str | None = None) -> Sequence[SearchResult]:
        """What is found, best first, at most `limit`. Raises ToolError."""
        if not query.strip():
            return ()
        return await self.provider.search(query, self.limit, tenant)


def _provider(api_key: str | None, url: str | None, given: str | Provider | None, allow: Sequence[str]) -> Provider:
    if given is not None and not isinstance(given, str):
        return given
    name = given or ("brave" if api_key else "searxng" if url else "local")
    if name == "local":
        return Local()
    if name == "searxng":
        if url is None:
            raise ConfigError("is missing", where="url", expected="the address of a SearXNG instance")
        return SearXNG(url, allow=allow)
    if name == "brave":
        if not api_key:
            raise ConfigError("is missing", where="api_key", expected="a key of Brave's search API")
        return Brave(api_key, url=url or BRAVE_URL, client=WebClient(allow=allow, limits=LIMITS))
    raise ConfigError("no such provider", where="provider", found=name[:40], expected="brave, searxng or local")
