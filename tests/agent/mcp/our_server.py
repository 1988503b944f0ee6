"""Our server over standard input and output, as a program. Its tool prints, which must not reach the client."""

import asyncio

from deepseek.agent import ToolRegistry
from deepseek.agent.mcp.server import ToolServer

registry = ToolRegistry()


@registry.register("shout")
def shout(text: str) -> str:
    """Say it louder."""
    print("shouting")
    return text.upper()


if __name__ == "__main__":
    asyncio.run(ToolServer(registry).serve_stdio())
