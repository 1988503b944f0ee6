"""`deepseek mcp serve`, as programs use it: over pipes and over HTTP, spoken to by the official client."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import mcp
import pytest
from mcp.client.stdio import StdioServerParameters
from mcp_types import TextContent

from deepseek.agent.mcp.client import HttpServer, McpToolset
from deepseek.core.errors import ToolError
from deepseek.core.messages import TextPart

MAIN = "import sys; from deepseek.cli import main; main(sys.argv[1:])"
KEY = "a-key-of-the-right-length"


def test_the_builtin_tools_are_served_over_pipes(tmp_path: Path) -> None:
    async def call() -> None:
        program = StdioServerParameters(
            command=sys.executable, args=["-c", MAIN, "mcp", "serve"], env={"XDG_DATA_HOME": str(tmp_path)}
        )
        async with mcp.Client(program) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"calculator", "convert", "date"} <= names
            (block,) = (await client.call_tool("calculator", {"expression": "48 * 17"})).content
            assert isinstance(block, TextContent) and block.text == "816"
            assert (await client.call_tool("calculator", {"wrong": 1})).is_error

    asyncio.run(asyncio.wait_for(call(), 60))


def test_an_agents_tools_are_served_over_http_to_those_with_the_key(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("tools: [convert]\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    async def call() -> None:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MAIN, "mcp", "serve", str(config), "--http", f"127.0.0.1:{port}"),
            env={**os.environ, "DEEPSEEK_MCP_KEY": KEY, "XDG_DATA_HOME": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert server.stderr is not None
            assert b"serving tools" in await server.stderr.readline()
            url = f"http://127.0.0.1:{port}/mcp"
            async with McpToolset(HttpServer(url, {"authorization": f"Bearer {KEY}"})) as tools:
                while True:
                    try:
                        assert [tool.name for tool in await tools.tools()] == ["convert"]
                        break
                    except ToolError as error:
                        await asyncio.sleep(getattr(error, "retry_after_s", None) or 0)
                (schema,) = [tool.parameters for tool in await tools.tools()]
                arguments = dict(zip(schema["required"], (2, "km", "m"), strict=True))
                (part,) = await tools.call("convert", arguments)
                assert isinstance(part, TextPart) and "2000" in part.text
            async with McpToolset(HttpServer(url), connect_s=5.0) as tools:
                with pytest.raises(ToolError):
                    await tools.tools()
        finally:
            server.terminate()
            await server.wait()

    asyncio.run(asyncio.wait_for(call(), 90))


def test_other_machines_are_served_only_with_a_key(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPSEEK_MCP_KEY", raising=False)
    assert "only with a key" in refused("mcp", "serve", "--http", "0.0.0.0:0")
    assert "not an address" in refused("mcp", "serve", "--http", "localhost")
    assert "no built-in tool" in refused("mcp", "serve", "--tool", "nonesuch", "--http", "127.0.0.1:0")
