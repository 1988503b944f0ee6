"""The tools of a registry, or of any toolsets, for every client of the protocol: over standard input and output, or HTTP.

A call goes through the same `Executor` as an agent's: arguments are checked, time and results bounded, in the tenant's name.
(The SDK's low-level server checks no arguments.) A call that a person would have to allow is refused, since a client of the
protocol cannot prove that one did. Both generations of the protocol are spoken, the stateless one of 2026 and those before.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Sequence
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.executor import Executor, ExecutorLimits
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.execution.tool import Tool, Toolset
from deepseek.agent.mcp.version import own_version
from deepseek.agent.tenant import as_tenant
from deepseek.core.engine import LOCAL_TENANT
from deepseek.core.errors import ConfigError
from deepseek.core.messages import ToolCallPart
from deepseek.tenancy.context import check_tenant

MAX_CALLS = 64
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_KEY_CHARS = 16
_REFUSED = "a person would have to allow this call, and nobody can be asked here"


class ToolServer:
    """Serves tools. tools: a toolset, several, or an executor of them. tenant: in whose name they are called.

    max_calls: that run at a time, of all clients together; more wait, and end with their client's patience.
    Raises TenancyError for a name that is none.
    """

    def __init__(
        self,
        tools: Toolset | Sequence[Toolset] | Executor,
        *,
        tenant: str = LOCAL_TENANT,
        name: str = "deepseek",
        instructions: str | None = None,
        max_calls: int = MAX_CALLS,
        limits: ExecutorLimits | None = None,
    ) -> None:
        self._executor = tools if isinstance(tools, Executor) else Executor(tools, limits=limits or ExecutorLimits())
        self._tenant = check_tenant(tenant)
        self._free = asyncio.Semaphore(max_calls)
        self._changes = InMemorySubscriptionBus()
        self.server: Server[Any] = Server(
            name,
            version=own_version(),
            instructions=instructions,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(self._changes, max_subscriptions=256),
        )

    async def changed(self) -> None:
        """Tell the clients that listen that the tools are others now."""
        await self._changes.publish(ToolsListChanged())

    async def serve_stdio(self) -> None:
        """Until standard input ends. What tools print goes to standard error."""
        async with stdio_server() as (read, write):
            await self.server.run(
                read, write, self.server.create_initialization_options(NotificationOptions(tools_changed=False))
            )

    def http_app(self, *, key: str | None, host: str = "127.0.0.1", path: str = "/mcp") -> ASGIApp:
        """The ASGI application. key: what clients send as `Authorization: Bearer`.

        Raises ConfigError without a key where others than this machine could call, and for a key that is too short.
        """
        on_loopback = host in LOOPBACK
        if key is None and not on_loopback:
            raise ConfigError(
                "tools are served to other machines only with a key",
                where="mcp serve",
                found=host,
                fix="set DEEPSEEK_MCP_KEY, or serve on 127.0.0.1",
            )
        if key is not None and len(key) < MIN_KEY_CHARS:
            raise ConfigError("the key is too short", where="mcp serve", expected=f"{MIN_KEY_CHARS} characters or more")
        # On loopback a page in a browser could call by a name that resolves to it; with a key it cannot know that.
        security = None if on_loopback else TransportSecuritySettings(enable_dns_rebinding_protection=False)
        app = self.server.streamable_http_app(streamable_http_path=path, host=host, transport_security=security)
        return app if key is None else _WithKey(app, key)

    async def _list(
        self, context: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        with as_tenant(self._tenant):
            tools = await self._executor.tools()
        return types.ListToolsResult(tools=[_described(tool) for tool in tools], ttl_ms=0, cache_scope="private")

    async def _call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        call_id = "mcp_" + secrets.token_hex(8)
        call = ToolCallPart(call_id, params.name, json.dumps(params.arguments or {}, ensure_ascii=False))
        asked = ToolContext(tenant=self._tenant, run_id=call_id)
        async with self._free:
            with as_tenant(self._tenant):
                (result,) = await self._executor.run([call], context=asked)
        if result.kind == "unknown_tool":
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:128]}")
        return _answered(result)


class _WithKey:
    """Lets in who knows the key. Everybody else gets 401 and nothing else, whatever was asked."""

    def __init__(self, inner: ASGIApp, key: str) -> None:
        self._inner, self._expected = inner, b"Bearer " + key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                await _refuse(scope, send)
                return
        await self._inner(scope, receive, send)


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = b'{"title": "a key is needed", "status": 401}'
    headers = [(b"content-type", b"application/problem+json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _described(tool: Tool) -> types.Tool:
    hints = types.ToolAnnotations(
        read_only_hint=True if tool.pure else None, idempotent_hint=True if tool.idempotent or tool.pure else None
    )
    parameters = {"type": "object", **tool.parameters}
    return types.Tool(name=tool.spec.name, description=tool.description, input_schema=parameters, annotations=hints)


def _answered(result: ToolResult) -> types.CallToolResult:
    text = _REFUSED if result.status == "suspended" else result.text
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=result.status != "ok")
