"""Searching the web, or a tenant's own documents, on behalf of plugins and tools."""

from deepseek.plugins.search.engine import SearchEngine
from deepseek.plugins.search.providers import Brave, Local, Provider, SearXNG
from deepseek.plugins.search.result import SearchResult, cited

__all__ = ["Brave", "Local", "Provider", "SearXNG", "SearchEngine", "SearchResult", "cited"]
