"""A server by the official SDK, as a program: `official_server.py stdio`, or `official_server.py PORT` for HTTP."""

import asyncio
import base64
import io
import os
import sys

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image as Picture

server = MCPServer("official", instructions="Adds.", version="1.2.3")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail(reason: str) -> str:
    """Always fails."""
    raise ToolError(reason)


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
def picture() -> Image:
    """A red square."""
    out = io.BytesIO()
    Picture.new("RGB", (8, 8), (255, 0, 0)).save(out, "PNG")
    return Image(data=out.getvalue(), format="png")


@server.tool()
def long_text(length: int) -> str:
    """So many letters."""
    return "x" * length


@server.tool()
def die(status: int) -> str:
    """Ends the server."""
    print("out of order", file=sys.stderr, flush=True)
    os._exit(status)


@server.tool()
def process_id() -> int:
    """Of the server."""
    return os.getpid()


@server.tool()
def variable(name: str) -> str:
    """Of the server's environment."""
    return os.environ.get(name, "")


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool, and says so."""

    def grown() -> str:
        """A new tool."""
        return base64.b64encode(b"new").decode()

    server.add_tool(grown)
    await context.notify_tools_changed()
    return "grown"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[1]))
