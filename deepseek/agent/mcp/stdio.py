"""A server as a process of its own: a message is a line of JSON on its standard input or output.

The SDK's own transport reads lines of any length; this one gives up a server whose line is longer than a bound, keeps the last
of what it wrote to standard error, and says how it ended. The process leads a group of its own. It is asked to end by closing
its input, as the protocol says (Lifecycle, Shutdown), then by SIGTERM, then by SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import mcp_types as types
from mcp.client._transport import TransportStreams
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from deepseek.agent.mcp.ended import Ended
from deepseek.core.errors import ToolError

log = logging.getLogger("deepseek.agent.mcp")

_ERROR_BYTES = 4096
_FLUSH_S, _END_S, _TERMINATE_S, _KILL_S = 0.5, 2.0, 2.0, 2.0


@asynccontextmanager
async def process(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str | None,
    max_message_bytes: int,
    ended: Ended,
) -> AsyncGenerator[TransportStreams]:
    """The streams of a server that is started here. environment: beside the few variables that every server gets.

    Raises ToolError where it cannot be started.
    """
    try:
        server = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=get_default_environment() | dict(environment),
            cwd=directory,
            limit=max_message_bytes,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ToolError("the server cannot be started", where=command[0], found=str(error)[:300]) from error
    running = _Process(server, ended, max_message_bytes)
    try:
        # No await between the start and here: a cancellation would leave the process running.
        into, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, out_of = anyio.create_memory_object_stream[SessionMessage](0)
        async with into, from_server, to_server, out_of, anyio.create_task_group() as tasks:
            tasks.start_soon(running.complaints)
            tasks.start_soon(running.read, into)
            tasks.start_soon(running.write, out_of)
            try:
                yield from_server, to_server
            finally:
                running.stopping = True
                with anyio.CancelScope(shield=True):
                    from_server.close()
                    to_server.close()
                    await running.stop()
                tasks.cancel_scope.cancel()
    finally:
        running.kill()


class _Process:
    def __init__(self, server: asyncio.subprocess.Process, ended: Ended, max_message_bytes: int) -> None:
        self._server, self._ended, self._most = server, ended, max_message_bytes
        self._said = b""
        self._written = asyncio.Event()
        self.stopping = False  # by us: its end is then no news

    async def read(self, into: anyio.abc.ObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand on what the server says, until it says no more."""
        assert self._server.stdout is not None
        async with into:
            while True:
                try:
                    line = await self._server.stdout.readuntil(b"\n")
                except asyncio.IncompleteReadError:
                    break
                except asyncio.LimitOverrunError:
                    self._ended.set(f"the server sent a message of more than {self._most} bytes")
                    return
                except OSError:
                    break
                try:
                    message: SessionMessage | Exception = SessionMessage(
                        types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                    )
                except ValueError as error:
                    log.warning("an MCP server wrote what is no message: %s", str(error)[:200])
                    message = error
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await into.send(message)
                    continue
                return
            await self._tell_end()

    async def _tell_end(self) -> None:
        if self.stopping:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._server.wait()
        self._ended.set(f"the server {_how(self._server.returncode)}{self._last_words()}")

    async def write(self, out_of: anyio.abc.ObjectReceiveStream[SessionMessage]) -> None:
        """Send what the client says."""
        assert self._server.stdin is not None
        try:
            async with out_of:
                async for message in out_of:
                    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    self._server.stdin.write(text.encode() + b"\n")
                    await self._server.stdin.drain()
        except OSError:
            await self._tell_end()
        finally:
            self._written.set()

    async def complaints(self) -> None:
        """Keep the end of what the server writes to standard error, and never let that pipe fill."""
        assert self._server.stderr is not None
        with suppress(OSError):
            while piece := await self._server.stderr.read(1 << 16):
                self._said = (self._said + piece)[-_ERROR_BYTES:]

    def _last_words(self) -> str:
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    async def stop(self) -> None:
        """Have it end. Every wait is bounded."""
        assert self._server.stdin is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._written.wait()
        self._server.stdin.close()
        for give_s, sign in ((_END_S, signal.SIGTERM), (_TERMINATE_S, signal.SIGKILL), (_KILL_S, None)):
            try:
                async with asyncio.timeout(give_s):
                    await self._server.wait()
                break
            except TimeoutError:
                if sign is not None:
                    self._signal(sign)

    def kill(self) -> None:
        """Now, whatever it left in its group too."""
        self._signal(signal.SIGKILL)
        transport = getattr(self._server, "_transport", None)
        if transport is not None:
            transport.close()

    def _signal(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server.pid, sign)


def _how(status: int | None) -> str:
    if status is None:
        return "closed its output"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
