"""An MCP server's tools as a toolset of an agent.

    files = McpToolset(StdioServer(("mcp-files", "--root", ".")), name="files")
    agent = Agent(model, [registry, files])

The server is started, or spoken to, when its tools are first asked for. What it lists is bounded and remembered until it says
that it has changed or is connected anew. What its tools answer is text and data, never instructions; whether a tool only
reads, or may be repeated, is believed of a server only where it is trusted (`trusted=True`).
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import mcp_types as types
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, REQUEST_TIMEOUT
from pydantic import ValidationError

from deepseek.agent.execution.errors import ToolFailed, ToolRetry, ToolTimeout, ToolTransient
from deepseek.agent.execution.tool import Tool
from deepseek.agent.mcp.contents import parts_of, text_of
from deepseek.agent.mcp.ended import Ended
from deepseek.agent.mcp.http import address
from deepseek.agent.mcp.owner import McpGone, Owner, Status
from deepseek.agent.mcp.stdio import process
from deepseek.agent.mcp.version import own_version
from deepseek.agent.perception.perceive import Attachment, Perception
from deepseek.core.errors import ConfigError, DeepSeekError, ToolError
from deepseek.core.messages import MediaPart, Part, TextPart

log = logging.getLogger("deepseek.agent.mcp")

MAX_PAGES = 100
MAX_DESCRIPTION_CHARS = 8192
MAX_MESSAGE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server that is started here: its command, and variables beside the few that it gets anyway (PATH, HOME, ...)."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server at an address. headers: of every request, a key for one."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class McpToolset:
    """A `Toolset` of one server.

    name: of the server, in messages. prefix: put before its tools' names, to keep two servers apart. only: the names of
    the tools that are taken; None: all. timeout_s: of one call. connect_s: for connecting, greeting and each listing.
    required: whether there being no server is an error to whoever wants the tools; else it is logged, and its tools are
    missing meanwhile. needs_approval: whether a person is asked before each call, or before which tools (by the server's
    names). trusted: whether its hints are believed. perception: makes text of images and sounds that its tools answer.
    """

    def __init__(
        self,
        server: StdioServer | HttpServer,
        *,
        name: str = "",
        prefix: str = "",
        only: Collection[str] | None = None,
        timeout_s: float = 60.0,
        connect_s: float = 30.0,
        max_tools: int = 256,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        required: bool = True,
        needs_approval: bool | Collection[str] = False,
        trusted: bool = False,
        perception: Perception | None = None,
    ) -> None:
        self._server, self._prefix, self._only = server, prefix, None if only is None else frozenset(only)
        self._name = name or (server.url if isinstance(server, HttpServer) else server.command[0])
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._max_tools, self._max_message_bytes = max_tools, max_message_bytes
        self._required, self._trusted, self._perception = required, trusted, perception
        self._needs_approval = needs_approval if isinstance(needs_approval, bool) else frozenset(needs_approval)
        self._tools: tuple[Tool, ...] = ()
        self._stale = True
        self._version = 0
        self._left_out: dict[str, str] = {}
        self._listing: asyncio.Task[None] | None = None
        self._instructions = ""
        self._owner = Owner(
            self._client, name=self._name, connect_s=connect_s, connected=self._connected, watch=self._watch
        )

    @property
    def status(self) -> Status:
        """Whether it is connected; if not, why not."""
        return self._owner.status

    @property
    def instructions(self) -> str:
        """What the server says of itself; its words, not ours."""
        return self._instructions

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tools that it lists and that cannot be used, with the reason."""
        return dict(self._left_out)

    async def tools(self) -> Sequence[Tool]:
        """Its tools now. Raises ToolError where there is no server, unless it is not `required`."""
        if self._stale or self.status.state != "up":
            try:
                await self._listed()
            except (ToolError, MCPError, ValidationError) as error:
                if self._required and isinstance(error, ToolError):
                    raise
                if self._required:
                    raise ToolFailed(
                        "the server does not list its tools as the protocol says",
                        where=self._name,
                        found=_bounded(str(error))[:500],
                    ) from error
                log.warning("the tools of MCP server %s are missing: %s", self._name, error)
                return ()
        return self._tools

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float | None = None) -> list[Part]:
        """What a tool of the server answers, as parts. name: as the server has it.

        Raises ToolRetry with what the tool said went wrong, ToolTimeout, ToolFailed; ToolTransient where there is no
        server now, McpGone where it went away meanwhile.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            result = await self._owner.ask(
                lambda client: client.call_tool(name, dict(arguments), read_timeout_seconds=limit_s)
            )
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise ToolTimeout(f"the server did not answer within {limit_s:g} s", stopped=False) from error
            if error.code == INVALID_PARAMS:
                self._stale = True  # the tool may have gone, or take other arguments now
                raise ToolRetry(_bounded(error.message)) from error
            raise ToolFailed(_bounded(error.message)) from error
        except (ValidationError, RuntimeError) as error:
            raise ToolFailed("the server's answer is not what the protocol says", found=_bounded(str(error))) from error
        parts = await asyncio.to_thread(parts_of, result)
        if result.is_error:
            raise ToolRetry(_bounded(text_of(parts)) or "the tool failed and said nothing")
        return parts

    async def aclose(self) -> None:
        """Leave the server; one that was started here is ended. Idempotent."""
        await self._owner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _client(self, ended: Ended) -> Client:
        server = self._server
        if isinstance(server, StdioServer):
            transport = process(server.command, server.environment, server.directory, self._max_message_bytes, ended)
        else:
            transport = address(server.url, server.headers, self._connect_s, self._max_message_bytes)
        return Client(
            transport,
            # Of a greeting that an old server may leave unanswered, and then a second one has to fit in.
            read_timeout_seconds=self._connect_s / 3,
            message_handler=self._told,
            client_info=types.Implementation(name="deepseek", version=own_version()),
            cache=None,
        )

    def _connected(self, client: Client) -> None:
        self._stale = True
        self._instructions = _bounded(client.instructions or "")

    async def _told(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._stale = True

    async def _watch(self, client: Client) -> None:
        """What newer servers tell only to those who listen."""
        tools = client.server_capabilities.tools
        if client.protocol_version >= "2026" and tools is not None and tools.list_changed:
            async with client.listen(tools_list_changed=True) as changes:
                self._stale = True  # what changed before is not told again
                async for _ in changes:
                    self._stale = True

    async def _listed(self) -> None:
        """List anew, once for all who wait for it."""
        listing = self._listing
        if listing is None or listing.done() or listing.get_loop() is not asyncio.get_running_loop():
            listing = self._listing = asyncio.create_task(self._list())
            listing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(listing)

    async def _list(self) -> None:
        listed, version = await self._owner.ask(self._all_pages)
        known = {tool.name: tool for tool in self._tools} if version == self._version else {}
        self._version = version
        self._tools, self._left_out = await asyncio.to_thread(self._made, listed, known)

    async def _all_pages(self, client: Client) -> tuple[list[types.Tool], int]:
        self._stale = False  # a change that is told while this goes on makes it stale again
        found: list[types.Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None or len(found) > self._max_tools:
                break
        return found, self._owner.status.connects

    def _made(self, listed: Sequence[types.Tool], known: Mapping[str, Tool]) -> tuple[tuple[Tool, ...], dict[str, str]]:
        made: dict[str, Tool] = {}
        left_out: dict[str, str] = {}
        for tool in listed:
            if self._only is not None and tool.name not in self._only:
                continue
            if len(made) >= self._max_tools:
                left_out[tool.name[:128]] = f"more than {self._max_tools} tools"
            elif self._prefix + tool.name in made:
                left_out[tool.name[:128]] = "listed twice"
            else:
                try:
                    made[self._prefix + tool.name] = self._tool(tool, known.get(self._prefix + tool.name))
                except ToolError as error:
                    left_out[tool.name[:128]] = error.what
        for name, reason in left_out.items():
            log.warning("tool %r of MCP server %s is left out: %s", name, self._name, reason)
        return tuple(made.values()), left_out

    def _tool(self, listed: types.Tool, known: Tool | None) -> Tool:
        """As a `Tool`; the same object where nothing of it has changed."""
        hints = listed.annotations if self._trusted else None
        repeatable = hints is not None and bool(hints.idempotent_hint or hints.read_only_hint)
        asks = self._needs_approval if isinstance(self._needs_approval, bool) else listed.name in self._needs_approval
        description = (listed.description or listed.title or "")[:MAX_DESCRIPTION_CHARS]
        if (
            known is not None
            and known.description == description
            and known.parameters == listed.input_schema
            and known.idempotent == repeatable
        ):
            return known
        name = listed.name

        async def call_tool(**arguments: Any) -> str:
            try:
                parts = await self.call(name, arguments)
            except McpGone as error:
                raise (ToolTransient if repeatable else ToolFailed)(error.what) from error
            return text_of(await self._readable(parts))

        return Tool(
            self._prefix + name,
            description,
            listed.input_schema,
            call_tool,
            # The call itself ends sooner and says more.
            timeout_s=self._timeout_s + self._connect_s + 1.0,
            retries=1,
            idempotent=repeatable,
            needs_approval=asks,
        )

    async def _readable(self, parts: Sequence[Part]) -> list[Part]:
        """The parts, with text in place of images and sounds where something here makes it."""
        if self._perception is None:
            return list(parts)
        read: list[Part] = []
        for part in parts:
            if isinstance(part, MediaPart):
                try:
                    perceived = await self._perception.message("", [Attachment(part.data, part.kind)])
                    part = TextPart(perceived.message.text)
                except DeepSeekError as error:
                    log.warning("what a tool of MCP server %s answered cannot be read: %s", self._name, error)
            read.append(part)
        return read


def toolset_of(
    server: str | Sequence[str],
    *,
    name: str | None = None,
    headers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> McpToolset:
    """The toolset of an address (`http://…`, `https://…`) or of a command, as words or as one line.

    options: those of `McpToolset`. Raises ConfigError for what is neither.
    """
    if isinstance(server, str) and server.startswith(("http://", "https://")):
        return McpToolset(HttpServer(server, headers or {}), name=name or server, **options)
    if headers:
        raise ConfigError("a server that is started here takes no headers", where="mcp", fix="use environment")
    try:
        command = shlex.split(server) if isinstance(server, str) else list(server)
    except ValueError as error:
        raise ConfigError("not a command", where="mcp", found=str(error)) from None
    if not command:
        raise ConfigError("no command and no address", where="mcp", expected="a command, or http(s)://…")
    return McpToolset(StdioServer(command, environment or {}), name=name or command[0], **options)


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_DESCRIPTION_CHARS else text[:MAX_DESCRIPTION_CHARS] + "…"
