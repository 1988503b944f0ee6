"""Plugins: classes that look at prompts, answers and calls of tools on their way, and may change or refuse them.

    from deepseek.plugins import SearchEngine, register_plugin

    @register_plugin("web_search")
    class WebSearchPlugin:
        def __init__(self, api_key):
            self.engine = SearchEngine(api_key)

        def pre_process(self, prompt):
            return self.engine.search(prompt) + "\n" + prompt

docs/plugins.md tells how to write and configure one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek.plugins.config import PluginConfig
from deepseek.plugins.errors import PluginFailure, PluginRefusal
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.manager import PluginManager
from deepseek.plugins.registry import register_plugin

if TYPE_CHECKING:
    from deepseek.plugins.search import SearchEngine as SearchEngine

__all__ = [
    "PluginConfig",
    "PluginContext",
    "PluginFailure",
    "PluginManager",
    "PluginRefusal",
    "SearchEngine",
    "register_plugin",
]


def __getattr__(name: str) -> Any:
    """`SearchEngine`, with the HTTP client behind it, is loaded when it is asked for."""
    if name == "SearchEngine":
        from deepseek.plugins.search import SearchEngine

        return SearchEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
