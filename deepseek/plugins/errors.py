"""What ends a request in a plugin's name: a refusal, which is its purpose, or a failure of one that must not be left out."""

from __future__ import annotations

from deepseek.core.errors import ToolError


class PluginRefusal(ToolError):
    """Raised by a plugin's hook: the request must not go on. The text is shown to whoever asked, so it holds no secret."""


class PluginFailure(ToolError):
    """A plugin with `on_failure: closed` failed: it raised, was too slow, or returned something of a wrong type."""
