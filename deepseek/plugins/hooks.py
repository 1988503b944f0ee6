"""Every hook there is, by its signature. pluggy holds plugins to these: a hook may leave arguments out, not invent any.

A plugin is a class; its methods of these names are its hooks, each a plain function or `async def`. None as a result
means "as it was". Any hook but `on_error` may raise `PluginRefusal`. docs/plugins.md says which hook runs where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from deepseek.core.engine import LOCAL_TENANT

PROJECT = "deepseek"
hookspec = pluggy.HookspecMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class PluginContext:
    """Whose request a hook is called for.

    request_id: the id that the answer carries. route: the HTTP path, or what else asks. model: the name that was asked for.
    metadata: one dictionary for all hooks of a request, to leave things in for later ones, under a key with the plugin's name.
    choice: of an answer with several, the one whose text it is; counted from 0.
    """

    tenant: str = LOCAL_TENANT
    request_id: str = ""
    route: str = ""
    model: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    choice: int = 0


class Hooks:
    """The signatures."""

    @hookspec
    def pre_process(self, prompt: str, context: PluginContext) -> str | None:
        """The prompt to use instead: of a conversation the last text of the user, of a completion its prompt."""

    @hookspec
    def post_process(self, text: str, context: PluginContext) -> str | None:
        """The text to answer instead: all that one choice says, thinking and calls left out. Its stream is held until
        then; a class with `whole_text = False` gets each piece as it comes instead, and holds nothing."""

    @hookspec
    def on_token(self, text: str, context: PluginContext, last: bool) -> str | None:
        """The text to answer instead of one piece of it, as it comes; "" keeps it for now. A hook that names `last` is
        called once more after the last piece, with "" and last=True, and may give what it kept."""

    @hookspec
    def before_tool(self, name: str, arguments: Mapping[str, Any], context: PluginContext) -> Mapping[str, Any] | None:
        """The arguments to call an agent's tool with instead. They are validated after this."""

    @hookspec
    def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: PluginContext) -> str | None:
        """The result to show the model instead."""

    @hookspec
    def on_error(self, error: Exception, context: PluginContext) -> None:
        """The request failed, or was refused. Nobody waits for this."""


HOOKS = ("pre_process", "post_process", "on_token", "before_tool", "after_tool", "on_error")
TEXT_HOOKS = frozenset(("pre_process", "post_process", "on_token", "on_error"))
"""Those of a request for text; the others are an agent's."""
