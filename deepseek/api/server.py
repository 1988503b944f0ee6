"""Run the application until a signal, then drain: refuse new requests, let running ones finish, cancel what is left.

    SIGTERM or Ctrl-C -> readiness and new requests answer 503 -> running ones end, at most `grace_s`
    -> the rest is cancelled and gets its last frame -> the sockets close -> the engine closes.
A second signal ends the grace period, a third does not wait for anything.
"""

from __future__ import annotations

import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from deepseek.api.app import create_app
from deepseek.api.connections import Gate, GatedConfig
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.limits.collector import ConnectionCollector
from deepseek.api.state import ServerState
from deepseek.core.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from deepseek.api.grpc.server import GrpcFront

log = logging.getLogger("deepseek.api")

LAST_FRAMES_S = 5
BACKLOG = 2048
SPARE_FILES = 512


def serve(
    state: ServerState,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    pages: Mapping[str, Path] | None = None,
    grace_s: float = 30.0,
    access_log: bool = False,
    on_ready: Callable[[str], None] = print,
    grpc: GrpcConfig | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Blocks.

    port: 0 takes a free one. on_ready: called once with the URL when the model has answered. grpc: serve that too.
    grace_s: seconds running requests may take after the first signal.
    Raises ConfigError when the address cannot be used, EngineError when the model does not answer at the start.
    """
    _allow_files(state.limits.connections.total + SPARE_FILES)
    with bind(host, port) as listener:
        server = DrainingServer(
            state, pages=pages, grace_s=grace_s, access_log=access_log, on_ready=on_ready, grpc=grpc
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn raises the signal again once it is done; the drain was the answer to it.
            log.info("stopped by Ctrl-C")
    if server.failure is not None:
        raise server.failure
    if server.refused:
        raise EngineError("the model did not answer a one-token request at the start", fix="see the log above")


@contextmanager
def serving(
    state: ServerState,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    pages: Mapping[str, Path] | None = None,
    grace_s: float = 30.0,
    grpc: GrpcConfig | None = None,
) -> Iterator[DrainingServer]:
    """Serve from a thread while the block runs, then drain: for notebooks, measurements and tests.

    Yields the server once the model has answered; `server.url` says where. Raises as `serve` does.
    """
    with bind(host, port) as listener:
        ready = threading.Event()
        server = DrainingServer(state, pages=pages, grace_s=grace_s, on_ready=lambda url: ready.set(), grpc=grpc)
        server.url = f"http://{host}:{listener.getsockname()[1]}"

        def run() -> None:
            try:
                server.run(sockets=[listener])
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="deepseek-api", daemon=True)
        thread.start()
        ready.wait()
        try:
            if server.failure is not None:
                raise server.failure
            if server.refused or not server.started:
                raise EngineError("the model did not answer a one-token request at the start", fix="see the log above")
            yield server
        finally:
            server.begin_drain()
            thread.join()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError with one clear line: port in use, not permitted, no such address."""
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise ConfigError("no such port", where="port", found=port, expected="0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            "no such address", where=where, found=str(error), fix="give an address of this machine as the host"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_the_dead(listener)
        listener.bind(address)
        # Listening now, not later: only this fails when another process listens already.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            "cannot listen here", where=where, found=error.strerror, fix="choose another port or host"
        ) from None
    return listener


def _notice_the_dead(listener: socket.socket) -> None:
    """Ask clients that are silent for long whether they are still there; connections inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _allow_files(wanted: int) -> None:
    """Let the process have as many open files as its connections need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _grpc_front(app: Any, state: ServerState, config: GrpcConfig) -> GrpcFront:
    from deepseek.api.grpc.server import GrpcFront  # a tenth of a second that a server without it need not spend

    return GrpcFront(app, state, config)


class DrainingServer(uvicorn.Server):
    """uvicorn, with a drain between the first signal and the closing of the sockets.

    uvicorn alone stops listening at the signal, so no load balancer ever sees "not ready".
    `url` says where it answers, once it does, and `grpc_address` where in gRPC; `refused` is set when the model did not
    answer at the start, `failure` when gRPC could not.
    """

    def __init__(
        self,
        state: ServerState,
        *,
        pages: Mapping[str, Path] | None = None,
        grace_s: float = 30.0,
        access_log: bool = False,
        on_ready: Callable[[str], None] = print,
        grpc: GrpcConfig | None = None,
    ) -> None:
        # A slow reader's own request gives up first; this is the net under whatever else is written.
        gate = Gate(state.limits.connections, stall_s=2 * state.settings.send_timeout_s)
        state.metrics.registry.register(ConnectionCollector(gate))
        app = create_app(state, pages)
        super().__init__(
            GatedConfig(
                app,
                gate,
                lifespan="on",
                log_level="info" if access_log else "warning",
                access_log=access_log,
                server_header=False,
                timeout_graceful_shutdown=LAST_FRAMES_S,
                backlog=BACKLOG,
            )
        )
        self.gate = gate
        self.refused = False
        self.failure: ConfigError | None = None
        self.url = ""
        self._grpc = None if grpc is None else _grpc_front(app, state, grpc)
        self._state = state
        self._grace_s = grace_s
        self._on_ready = on_ready
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return
        if self._state.lifecycle.phase != "ready":
            # Left to the first tick, so that the engine is closed on the way out.
            self.refused = True
        elif sockets:
            if self._grpc is not None:
                try:
                    await self._grpc.start(sockets[0].getsockname()[0])
                except ConfigError as error:
                    self.failure, self.should_exit = error, True
                    return
            self.url = self.url or url_of(sockets[0])
            self._on_ready(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc is not None:
            await self._grpc.stop(LAST_FRAMES_S)
        await super().shutdown(sockets)

    @property
    def grpc_address(self) -> str:
        """host:port; empty without gRPC."""
        return "" if self._grpc is None else self._grpc.address

    def begin_drain(self) -> None:
        """Stop taking requests; the server ends when the running ones have, or after the grace period. Idempotent."""
        if self._drain_ends is None:
            self._drain_ends = time.monotonic() + self._grace_s
            self._state.lifecycle.begin_drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started or self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        if self._drain_ends is None:
            self.begin_drain()
        else:
            self._drain_ends = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        if self.refused:
            self.should_exit = True
        elif self._drain_ends is not None and not self.should_exit:
            lifecycle = self._state.lifecycle
            if lifecycle.running and time.monotonic() >= self._drain_ends:
                await lifecycle.cancel_running()
                self.should_exit = True
            elif not lifecycle.running:
                self.should_exit = True
        return await super().on_tick(counter)
