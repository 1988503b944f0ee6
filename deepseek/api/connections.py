"""What stands between the sockets and uvicorn: every connection is bounded in time, in memory and in number.

uvicorn parses HTTP and leaves the rest to a proxy before it: a head may arrive one byte an hour, a header may never end,
thousands of requests may be sent ahead of their answers, a reader may stop reading, and its own errors are plain text.
`BoundedConnection` and `BoundedWebSocket` are its protocols with those holes closed. `Gate` counts the connections.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState as UvicornState
from websockets.frames import Frame

from deepseek.api.limits.config import ConnectionConfig
from deepseek.api.problems import PROBLEM_MEDIA_TYPE, Problem, retry_after
from deepseek.api.wire import dump_json

# Of a body that nobody reads: still received, so that the connection can go on.
LEFTOVER_BYTES = 64 * 1024
# The event loop reads at most so much at once; what is counted by reads can be off by it.
READ_BYTES = 256 * 1024
# Connections beyond the bound that are told so; further ones are only closed.
REFUSED_AT_ONCE = 128
MESSAGES_WAITING = 256

PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Gate:
    """The connections of one server. refused: since the start, by the kind of problem they ended with.

    stall_s: a connection that takes nothing of what is written to it for so long is cut.
    """

    def __init__(self, bounds: ConnectionConfig, stall_s: float) -> None:
        self.bounds = bounds
        self.stall_s = stall_s
        self.open = 0
        self.refused: Counter[str] = Counter()
        self._of_address: dict[str, int] = {}

    def enter(self, address: str) -> Problem | None:
        """Count a connection until its `leave`. A problem if there are too many."""
        self.open += 1
        here = self._of_address[address] = self._of_address.get(address, 0) + 1
        if self.open > self.bounds.total:
            detail = "The server has as many connections as it takes."
        elif self.bounds.per_address is not None and here > self.bounds.per_address:
            detail = "There are as many connections from this address as one may have."
        else:
            return None
        return Problem("too-many-connections", detail, headers=retry_after(1.0))

    def leave(self, address: str) -> None:
        self.open -= 1
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]


class GatedConfig(uvicorn.Config):
    """uvicorn's configuration, and the gate that its connections go through."""

    def __init__(self, app: Any, gate: Gate, **options: Any) -> None:
        bounds = gate.bounds
        super().__init__(
            app,
            http=BoundedConnection,
            ws=BoundedWebSocket,
            ws_max_size=bounds.message_bytes,
            ws_ping_interval=bounds.ping_s,
            ws_ping_timeout=bounds.ping_s,
            # A small message could otherwise hold a large one.
            ws_per_message_deflate=False,
            timeout_keep_alive=bounds.keep_alive_s,
            **options,
        )
        self.gate = gate


class _Refusal(Exception):
    """Raised out of the parser's callbacks, to stop it where it is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind)
        self.problem = problem


class _Line:
    """The transport as uvicorn sees it. Only closing is different: it leaves to the connection how."""

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self.connection = connection
        self.write: Callable[[bytes], None] = transport.write
        self._transport = transport

    def close(self) -> None:
        self.write = _drop
        self.connection.close()

    def is_closing(self) -> bool:
        return self.connection.closing or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _drop(data: bytes) -> None:
    return


class BoundedConnection(HttpToolsProtocol):
    """One HTTP connection. Its time for a head is counted from the head's first byte and not set back by more bytes."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: UvicornState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, GatedConfig)
        self._gate = config.gate
        self._bounds = config.gate.bounds
        self._real: asyncio.Transport | None = None
        self._address = ""
        self.closing = False
        self._timer: asyncio.TimerHandle | None = None  # for the head; once closing, for the end
        self._stall: asyncio.TimerHandle | None = None
        self._in_head = False
        self._message_done = True
        self._chunk = 0  # bytes of the read being parsed
        self._ended_in_chunk = False
        self._fed = 0  # bytes of the current request so far, head and framing included
        self._body = 0  # of those, its body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._real = transport
        transport.set_write_buffer_limits(high=self._bounds.write_buffer_bytes)
        super().connection_made(cast(asyncio.Transport, _Line(transport, self)))
        self._address = self.client[0] if self.client else ""
        problem = self._gate.enter(self._address)
        if problem is None:
            self._await_head()
        elif self._gate.open > self._bounds.total + REFUSED_AT_ONCE:
            self._gate.refused[problem.kind] += 1
            transport.abort()
        else:
            self._message_done = False  # the client is about to send something
            self._refuse(problem)

    def connection_lost(self, exc: Exception | None) -> None:
        self.left()
        super().connection_lost(exc)
        # uvicorn leaves it running where the connection was reset.
        self._unset_keepalive_if_required()

    def left(self) -> None:
        """The connection is gone; called once, by this or by the WebSocket it became."""
        self.closing = True
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall = None
        self._gate.leave(self._address)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._unset_keepalive_if_required()
        self._chunk = len(data)
        self._fed += len(data)
        self._ended_in_chunk = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._stop_timer()
                self.handle_websocket_upgrade()
            else:
                # The parser reads no further, whatever the other protocol would have been.
                self.cycle.keep_alive = False
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            known = cause.problem if isinstance(cause, _Refusal) else None
            self._refuse(known or Problem("malformed-request", "This is not HTTP as RFC 9112 has it."))
            return
        if self._in_head:
            if self._fed > self._bounds.head_bytes:
                self._refuse(self._large_head())
            else:
                self._await_head()
        elif self._fed - self._body > self._bounds.head_bytes + READ_BYTES + self._body:
            # Chunks of a byte, extensions and trailers: more wrapping than content.
            self._refuse(Problem("malformed-request", "The body has more framing than content."))
        elif self.cycle is None or self.cycle.response_complete:
            self._await_head()  # line breaks between requests, or a body that nobody reads any more
        else:
            self._stop_timer()

    def on_message_begin(self) -> None:
        # Where this one begins within the read is not known; a request that ended in it has had its part.
        self._fed = 0 if self._ended_in_chunk else self._chunk
        self._body = 0
        self._in_head = True
        self._message_done = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        bounds = self._bounds
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise _Refusal(Problem("malformed-request", "This server speaks HTTP/1.1 and HTTP/1.0."))
        if len(self.url) > bounds.target_bytes:
            raise _Refusal(Problem("target-too-long", f"The target may have at most {bounds.target_bytes} bytes."))
        if len(self.headers) > bounds.headers or (
            self._fed > bounds.head_bytes
            and sum(len(name) + len(value) for name, value in self.headers) > bounds.head_bytes
        ):
            raise _Refusal(self._large_head())
        if len(self.pipeline) >= bounds.pipelined:
            raise _Refusal(Problem("malformed-request", "Too many requests were sent ahead of their answers."))
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        # Trailers are parsed like headers; they must not become any of this request's.
        self.headers = []
        if self.scope["http_version"] == "1.0":
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _UntilClosed()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._message_done = True
        self._ended_in_chunk = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        cycle = self.cycle
        if cycle.response_complete and not self._message_done and self._leftover(cycle) > LEFTOVER_BYTES:
            self.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None and self._real is not None:
            self._stall = self.loop.call_later(self._gate.stall_s, self._real.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def close(self) -> None:
        """Close once what was written is sent, or the time for that is up.

        While the client still sends, only our side is closed at first and the rest is thrown away: to close at once
        would reset the connection and take the answer from the client before it is read.
        """
        transport = self._real
        if self.closing or transport is None:
            return
        self.closing = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        waits = self._gate.stall_s
        if transport.is_closing() or self._message_done or not transport.can_write_eof():
            transport.close()
        else:
            self.flow.resume_reading()
            transport.write_eof()
            waits = self._bounds.linger_s
        self._timer = self.loop.call_later(waits, transport.abort)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _refuse(self, problem: Problem) -> None:
        self._gate.refused[problem.kind] += 1
        under_way = self.cycle is not None and not self.cycle.response_complete
        if not under_way or (not self.pipeline and not self.cycle.response_started):
            self.transport.write(_answer(problem))
        self._message_done = False
        self.transport.close()

    def _large_head(self) -> Problem:
        bounds = self._bounds
        detail = f"The head may have at most {bounds.headers} fields and {bounds.head_bytes} bytes."
        return Problem("head-too-large", detail)

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._bounds.head_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            seconds = self._bounds.head_timeout_s
            self._refuse(Problem("head-timeout", f"The head did not arrive within {seconds:g} s."))
        else:
            self.transport.close()

    def _leftover(self, cycle: RequestResponseCycle) -> int:
        """Bytes of the body still to come, or very many where the client has not said."""
        declared = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), None)
        if declared is None or self.expect_100_continue:
            return LEFTOVER_BYTES + 1
        return int(declared) - self._body


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket. Messages and pongs wait for a slow peer only up to a bound."""

    _connection: BoundedConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(self.transport, _Line):
            self._connection = self.transport.connection

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.left()
        super().connection_lost(exc)

    def handle_cont(self, event: Frame) -> None:
        # Empty parts add nothing to a message but a place in the list of its parts.
        if event.data or event.fin:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        super().handle_ping()
        if not self.writable.is_set():
            # It asks without reading the answers.
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        super().send_receive_event_to_app()
        if self.queue.qsize() > MESSAGES_WAITING:
            self.transport.abort()


class _UntilClosed(int):
    """The length of an HTTP/1.0 answer, which ends where the connection does: no body exceeds it or falls short of it."""

    def __lt__(self, other: int) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: int) -> _UntilClosed:
        return self


def _answer(problem: Problem) -> bytes:
    """A whole response, for a request that was never understood."""
    body = dump_json(problem.document(instance=None))
    own = {
        "content-type": PROBLEM_MEDIA_TYPE,
        "content-length": str(len(body)),
        "connection": "close",
        "x-content-type-options": "nosniff",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in (own | problem.headers).items())
    return f"HTTP/1.1 {problem.status} {PHRASES[problem.status]}\r\n{head}\r\n".encode() + body
