"""Servers as programs of their own, and ports for them."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from deepseek.agent import Executor, ToolContext
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.mcp.client import HttpServer, McpToolset, StdioServer
from deepseek.core.messages import ToolCallPart

HERE = Path(__file__).parent
LISTENS_S = 30.0


def official(**options: Any) -> McpToolset:
    command = (sys.executable, str(HERE / "official_server.py"), "stdio")
    return McpToolset(StdioServer(command, {"GREETING": "hello"}), name="official", **options)


def odd(kind: str, **options: Any) -> McpToolset:
    return McpToolset(StdioServer((sys.executable, str(HERE / "odd_server.py"), kind)), name="odd", **options)


@contextlib.asynccontextmanager
async def program(*command: str, port: int, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that listens on a port of this machine, until it is left."""
    running = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL, env=environment or None)
    try:
        await _listening(port, running)
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def official_http(port: int) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return program(sys.executable, str(HERE / "official_server.py"), str(port), port=port)


def at(port: int, **options: Any) -> McpToolset:
    return McpToolset(HttpServer(f"http://127.0.0.1:{port}/mcp"), name="official", **options)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _listening(port: int, running: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(LISTENS_S):
        while running.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(running.wait(), 0.05)
    raise AssertionError("the program ended before it listened")


async def run(toolset: McpToolset, name: str, arguments: str = "{}") -> ToolResult:
    """A call as an agent makes it."""
    (result,) = await Executor(toolset).run([ToolCallPart("c", name, arguments)], context=ToolContext(tenant="acme"))
    return result


async def names(toolset: McpToolset) -> list[str]:
    return [tool.name for tool in await toolset.tools()]
