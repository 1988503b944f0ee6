"""Hooks around a tool: who is asked before it runs, and told after. `PluginManager` is one.

Whether a plugin that fails is left out or ends the call is the manager's policy. What comes out of a hook as an error,
or takes longer than the tool itself may, keeps the tool from running, or its result from the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ToolRefused
from deepseek.agent.execution.results import ToolResult, bounded_text, error_text
from deepseek.agent.execution.tool import Tool
from deepseek.core.engine import LOCAL_TENANT
from deepseek.core.errors import DeepSeekError
from deepseek.plugins.hooks import PluginContext


class ToolHooks(Protocol):
    """Who is asked before a tool runs and told after; `PluginManager` is one.

    before_tool: the arguments to go on with, which are checked after it. after_tool: the text to go on with. What either
    raises keeps the tool from running, or its result from the model.
    """

    async def before_tool(
        self, name: str, arguments: Mapping[str, Any], context: PluginContext
    ) -> Mapping[str, Any]: ...
    async def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: PluginContext) -> str: ...


async def before(hooks: ToolHooks, tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> Mapping[str, Any]:
    """The arguments as the hooks want them. Raises ToolRefused."""
    try:
        async with asyncio.timeout(tool.timeout_s):
            return await hooks.before_tool(tool.name, arguments, _plugin_context(context))
    except DeepSeekError as error:
        raise ToolRefused(f"not run: {error}") from error
    except Exception as error:
        raise ToolRefused("not run: a hook failed", found=error_text(error, 200)) from error


async def after(
    hooks: ToolHooks, tool: Tool, arguments: Mapping[str, Any], result: ToolResult, context: ToolContext, max_bytes: int
) -> ToolResult:
    """The result as the hooks want the model to see it."""
    try:
        async with asyncio.timeout(tool.timeout_s):
            text = await hooks.after_tool(tool.name, arguments, result.text, _plugin_context(context))
    except Exception as error:
        return replace(result, status="error", kind="refused", text=f"withheld: {error_text(error, 200)}")
    if text == result.text:
        return result
    text, cut = bounded_text(text, max_bytes)
    return replace(result, text=text, truncated=result.truncated or cut)


def _plugin_context(context: ToolContext) -> PluginContext:
    tenant = LOCAL_TENANT if context.tenant is None else context.tenant
    return PluginContext(tenant, context.run_id, "agent", metadata=dict(context.metadata))
