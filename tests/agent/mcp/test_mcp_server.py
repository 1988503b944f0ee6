"""Our tools for clients of the protocol by others: the official SDK's over real pipes and sockets, and one by hand."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import mcp
import pytest
import uvicorn
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_support import HERE, free_port
from mcp_types import CallToolResult, TextContent

from deepseek.agent import ToolContext, ToolRegistry
from deepseek.agent.execution.errors import ToolFailed
from deepseek.agent.execution.executor import Executor, ExecutorLimits
from deepseek.agent.mcp.client import HttpServer, McpToolset
from deepseek.agent.mcp.server import ToolServer
from deepseek.core.errors import ConfigError, TenancyError
from deepseek.core.messages import TextPart
from deepseek.tenancy.context import current_tenant

pytestmark = pytest.mark.anyio

KEY = "a-key-of-the-right-length"


def registry() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.register("math.add", pure=True)
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @tools.register("whose")
    async def whose(context: ToolContext) -> str:
        """In whose name it runs."""
        return f"{context.tenant} {current_tenant()}"

    @tools.register("fail")
    def fail() -> str:
        raise ToolFailed("it cannot be done")

    @tools.register("hang", timeout_s=0.1)
    async def hang() -> None:
        await asyncio.Event().wait()

    @tools.register("long")
    def long() -> str:
        return "x" * 1_000_000

    @tools.register("dangerous", needs_approval=True)
    def dangerous() -> str:
        raise AssertionError("it was run")

    return tools


def text(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@contextlib.asynccontextmanager
async def served(server: ToolServer, **options: Any) -> AsyncIterator[str]:
    """Over HTTP on this machine, in this event loop."""
    port = free_port()
    app = server.http_app(**{"key": None, **options})
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="on"))
    task = asyncio.create_task(running.serve())
    try:
        async with asyncio.timeout(20):
            while not running.started:
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        running.should_exit = True
        await task


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls_over_http(mode: str) -> None:
    async with served(ToolServer(registry(), tenant="acme")) as url, mcp.Client(url, mode=mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        add = listed["math_dot_add"]
        assert (add.description, add.input_schema["required"]) == ("Add two numbers.", ["a"])
        assert add.annotations is not None and add.annotations.read_only_hint
        assert text(await client.call_tool("math_dot_add", {"a": 41})) == "42"
        assert text(await client.call_tool("whose", {})) == "acme acme"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls_over_pipes(mode: str) -> None:
    program = StdioServerParameters(command=sys.executable, args=[str(HERE / "our_server.py")])
    async with mcp.Client(program, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["shout"]
        assert text(await client.call_tool("shout", {"text": "hey"})) == "HEY"
        info = client.server_info
        assert info is not None and info.name == "deepseek"


async def test_arguments_are_checked_as_an_agents_are() -> None:
    async with served(ToolServer(registry())) as url, mcp.Client(url) as client:
        for wrong in ({}, {"a": "x"}, {"a": 1, "c": 2}):
            result = await client.call_tool("math_dot_add", wrong)
            assert result.is_error and "do not fit" in text(result)


async def test_an_unknown_tool_is_an_error_of_the_protocol() -> None:
    async with served(ToolServer(registry())) as url, mcp.Client(url) as client:
        with pytest.raises(MCPError, match="Unknown tool: nonesuch"):
            await client.call_tool("nonesuch", {})


async def test_failures_time_outs_and_long_results_are_answers() -> None:
    async with (
        served(ToolServer(registry(), limits=ExecutorLimits(result_bytes=1000))) as url,
        mcp.Client(url) as client,
    ):
        failed = await client.call_tool("fail", {})
        assert failed.is_error and text(failed) == "it cannot be done"
        hung = await client.call_tool("hang", {})
        assert hung.is_error and "longer than 0.1 s" in text(hung)
        long = text(await client.call_tool("long", {}))
        assert len(long) < 1100 and "[cut:" in long


async def test_a_call_that_a_person_would_have_to_allow_is_refused_and_not_run() -> None:
    async with served(ToolServer(registry())) as url, mcp.Client(url) as client:
        result = await client.call_tool("dangerous", {})
        assert result.is_error and "a person would have to allow" in text(result)


async def test_without_the_key_nothing_is_answered() -> None:
    async with served(ToolServer(registry()), key=KEY) as url, httpx.AsyncClient() as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                answer = await client.request(method, url, headers=headers, content=b"{}")
                assert answer.status_code == 401
        async with McpToolset(HttpServer(url, {"authorization": f"Bearer {KEY}"})) as tools:
            assert await tools.call("math_dot_add", {"a": 1}) == [TextPart("2")]


def test_other_machines_are_served_only_with_a_key() -> None:
    server = ToolServer(registry())
    with pytest.raises(ConfigError, match="only with a key"):
        server.http_app(key=None, host="0.0.0.0")
    with pytest.raises(ConfigError, match="too short"):
        server.http_app(key="short")
    server.http_app(key=KEY, host="0.0.0.0")


def test_a_tenant_is_one_or_an_error() -> None:
    with pytest.raises(TenancyError):
        ToolServer(registry(), tenant="../other")


async def test_a_page_in_a_browser_cannot_call_by_another_name() -> None:
    async with served(ToolServer(registry())) as url, httpx.AsyncClient() as client:
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            answer = await client.post(url, headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            assert answer.status_code in (403, 421)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": 3}',
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_one_answered(body: bytes) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    async with served(ToolServer(registry())) as url, httpx.AsyncClient() as client:
        answer = await client.post(url, headers=headers, content=body)
        assert 400 <= answer.status_code < 500 or "error" in answer.text
        async with mcp.Client(url) as official:
            assert text(await official.call_tool("math_dot_add", {"a": 1})) == "2"


async def test_a_client_that_leaves_stops_the_call() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()
    tools = ToolRegistry()

    @tools.register("wait")
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with served(ToolServer(tools)) as url, mcp.Client(url) as client:
        call = asyncio.create_task(client.call_tool("wait", {}))
        await asyncio.wait_for(begun.wait(), 10)
        call.cancel()
        await asyncio.wait_for(stopped.wait(), 10)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_only_so_many_calls_run_at_a_time() -> None:
    running, most = 0, 0
    tools = ToolRegistry()

    @tools.register("count")
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with served(ToolServer(tools, max_calls=3)) as url, mcp.Client(url) as client:
        await asyncio.gather(*(client.call_tool("count", {}) for _ in range(12)))
    assert most == 3


async def test_those_who_listen_are_told_that_the_tools_changed() -> None:
    tools = registry()
    server = ToolServer(tools)
    async with served(server) as url, mcp.Client(url) as client:
        async with client.listen(tools_list_changed=True) as changes:
            tools.remove("hang")
            await server.changed()
            await asyncio.wait_for(anext(aiter(changes)), 10)
        assert "hang" not in [tool.name for tool in (await client.list_tools()).tools]


async def test_an_executor_with_its_own_bounds_can_be_served() -> None:
    executor = Executor(registry(), limits=ExecutorLimits(argument_bytes=20))
    async with served(ToolServer(executor)) as url, mcp.Client(url) as client:
        result = await client.call_tool("math_dot_add", {"a": 10**30})
        assert result.is_error and "too long" in text(result)


async def test_our_client_and_our_server_agree() -> None:
    async with served(ToolServer(registry())) as url, McpToolset(HttpServer(url)) as tools:
        ours, theirs = {tool.spec.name: tool.spec for tool in registry()}, await tools.tools()
        assert {tool.name: json.dumps(dict(tool.parameters)) for tool in theirs} == {
            name: json.dumps(spec.parameters) for name, spec in ours.items()
        }


async def test_a_client_without_the_sdk_initialises_lists_and_calls_by_hand() -> None:
    headers = {"accept": "application/json, text/event-stream"}
    async with served(ToolServer(registry())) as url, httpx.AsyncClient(headers=headers) as client:

        async def ask(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
            answer = await client.post(url, json={"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            if session := answer.headers.get("mcp-session-id"):
                client.headers["mcp-session-id"] = session
            (data,) = [line[5:] for line in answer.text.splitlines() if line.startswith("data:") and len(line) > 6]
            found: dict[str, Any] = json.loads(data)
            return found

        who = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "hand", "version": "0"}}
        assert (await ask(1, "initialize", who))["result"]["serverInfo"]["name"] == "deepseek"
        await client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert len((await ask(2, "tools/list", {}))["result"]["tools"]) == 6
        called = await ask(3, "tools/call", {"name": "math_dot_add", "arguments": {"a": 1, "b": 2}})
        assert called["result"]["content"] == [{"type": "text", "text": "3"}]


async def test_the_sdks_transport_over_a_client_with_headers_gets_in_with_the_key() -> None:
    import httpx2

    async with (
        served(ToolServer(registry()), key=KEY) as url,
        httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http,
        mcp.Client(streamable_http_client(url, http_client=http)) as client,
    ):
        assert text(await client.call_tool("math_dot_add", {"a": 1})) == "2"
