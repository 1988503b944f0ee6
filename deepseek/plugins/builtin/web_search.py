"""Puts fresh search results before the prompt:

plugins:
  - name: web_search
    trigger_words: [最新, 当前, latest, today]
    params:
      url: http://searx.corp:8080       # a SearXNG instance; or api_key: "${env:BRAVE_KEY}"; neither: the tenant's documents
      allow: [searx.corp]               # it is not on the public web
"""

from __future__ import annotations

from deepseek.core.errors import ConfigError
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.registry import register_plugin
from deepseek.plugins.search import SearchEngine, cited


@register_plugin("web_search")
class WebSearchPlugin:
    """Parameters: those of `SearchEngine`. What was found is left in the request's metadata as `web_search.urls`."""

    def __init__(
        self,
        api_key: str | None = None,
        url: str | None = None,
        provider: str | None = None,
        limit: int = 5,
        allow: list[str] | None = None,
    ) -> None:
        if allow is not None and not (isinstance(allow, list) and all(isinstance(entry, str) for entry in allow)):
            raise ConfigError("has a wrong value", where="allow", expected="a list of hosts and networks")
        self.engine = SearchEngine(api_key, url=url, provider=provider, limit=limit, allow=allow or ())

    async def pre_process(self, prompt: str, context: PluginContext) -> str | None:
        results = await self.engine.find(prompt, context.tenant)
        if not results:
            return None
        context.metadata["web_search.urls"] = [found.url or found.source for found in results]
        return f"{cited(results, prompt)}\n{prompt}"
