"""`deepseek mcp serve`: tools for other programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from deepseek.agent.config import load_tools
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Toolset
from deepseek.agent.tools import builtin_tools
from deepseek.cli.screen import print_line
from deepseek.core.errors import ConfigError

KEY_VARIABLE = "DEEPSEEK_MCP_KEY"


def run(config: Path | None, names: Sequence[str], *, http: str | None, tenant: str) -> None:
    """Serve until standard input ends, or Ctrl-C. Raises ConfigError and TenancyError before anything is served."""
    if find_spec("mcp") is None:
        raise ConfigError("MCP is not installed", where="mcp serve", fix='pip install "deepseek-stack[mcp]"')
    from deepseek.agent.mcp.server import ToolServer

    toolsets: list[Toolset] = load_tools(config) if config is not None else []
    if names or config is None:
        toolsets.append(ToolRegistry(builtin_tools(names or None)))
    if http is None:
        # Made where it runs, for what it waits with belongs to an event loop; nothing is printed, for clients read that.
        asyncio.run(ToolServer(toolsets, tenant=tenant).serve_stdio())
        return
    import uvicorn

    host, port = _address(http)
    app = ToolServer(toolsets, tenant=tenant).http_app(key=os.environ.get(KEY_VARIABLE) or None, host=host)
    print_line(Console(stderr=True), f"serving tools at http://{http}/mcp, in the name of {tenant}", "dim")
    uvicorn.run(app, host=host, port=port, log_level="warning", lifespan="on")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError("not an address", where="--http", found=repr(text), expected="HOST:PORT")
    return host, int(port)
